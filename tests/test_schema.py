"""The published schema and the engine say the same of a recipe's form: what one refuses the other does too.

Every recipe here names checkpoints that are there and fit, so that nothing but its form can be wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import branchmerge as bm
import checkpoints
import forms
import numpy as np
import program
import pytest
from branchmerge.merge import yaml
from branchmerge.merge.schema import schema
from branchmerge.merge.specs import Parameter
from forms import BAD, BOTH, GOOD, METHODS, Recipe, listed, minimal, ties
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

SCHEMA = schema(METHODS)
VALIDATOR = Draft202012Validator(SCHEMA)
ROOT = Path(__file__).parents[1]
SHIPPED = Path(bm.__file__).parent / "branchmerge.schema.json"
SHAPES = {
    "model.embed_tokens.weight": (8, 4),
    "model.layers.0.mlp.up_proj.weight": (6, 4),
    "model.layers.1.mlp.up_proj.weight": (6, 4),
    "model.norm.weight": (4,),
    "vision_tower.weight": (4, 4),
}
CONFIG = {"model_type": "llama", "torch_dtype": "float32", "vocab_size": 8, "num_hidden_layers": 2}
AT_ODDS = re.compile("probabilities|is above|all values of|sum to|at most m|cuts the whole model")
"""What the plan tells of values each of which can be meant."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `base`, three branches of it, and files that say something of each."""
    directory = tmp_path_factory.mktemp("schema")
    for seed, name in enumerate(("base", "a", "b", "c"), 1):
        tensors = checkpoints.weights(seed, of=1, shapes=SHAPES, dtype="F32")
        checkpoints.write(directory / name, tensors, config=CONFIG)
        vocabulary = {"type": "BPE", "vocab": {"<s>": 0, "</s>": 1}, "merges": []}
        (directory / name / "tokenizer.json").write_text(json.dumps({"added_tokens": [], "model": vocabulary}))
        checkpoints.write_file(directory / forms.FISHER.format(name), {key: one**2 for key, one in tensors.items()})
        seen = {key: np.eye(shape[-1], dtype=np.float32) for key, shape in SHAPES.items() if "proj" in key}
        checkpoints.write_file(directory / forms.GRAMS.format(name), seen)
    lora = {f"model.layers.0.mlp.up_proj.lora_{side}.weight": shape for side, shape in (("A", (2, 4)), ("B", (6, 2)))}
    (directory / "lora").mkdir()
    (directory / "lora/adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 4}')
    adapter = checkpoints.weights(1, shapes=lora, dtype="F32")
    checkpoints.write_file(directory / "lora/adapter_model.safetensors", adapter)
    return directory


@pytest.fixture(autouse=True)
def _there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def by_schema(recipe: Recipe) -> str:
    """What the schema has against a recipe."""
    error = best_match(VALIDATOR.iter_errors(recipe))
    return "" if error is None else f"{error.json_path}: {error.message}"


def by_engine(recipe: Recipe) -> str:
    return "; ".join(str(problem) for problem in bm.plan(recipe).problems)


def check(recipe: Recipe, *, good: bool) -> None:
    """Both take the recipe, or both refuse it."""
    told = {"schema": by_schema(recipe), "engine": by_engine(recipe)}
    assert [not one for one in told.values()] == [good, good], (recipe, told)


def check_value(recipe: Recipe, *, good: bool) -> None:
    """The same; but where a value that can be meant is at odds with others, that is the plan's to tell."""
    if good and AT_ODDS.search(by_engine(recipe)):
        assert not by_schema(recipe), recipe
    else:
        check(recipe, good=good)


@pytest.mark.parametrize("name", GOOD)
def test_what_both_take(name: str) -> None:
    check(GOOD[name], good=True)


@pytest.mark.parametrize("name", BAD)
def test_what_both_refuse(name: str) -> None:
    check(BAD[name], good=False)


def values(one: Parameter) -> Iterator[tuple[Any, bool]]:
    """Values of a parameter, and whether each can be meant."""
    if one.type in {"float", "integer"}:
        if one.type == "integer":
            yield from [(1.5, False), (2.0, True)]
        low, high = one.range or (None, None)
        ends = [(low, -1e-9)] if low is not None else []
        ends += [(high, 1e-9)] if high is not None else []
        for end, step in ends:
            yield from [(end, True), (end * (1 + step) if end > 1 else end + step, False), ([end, end], True)]
        yield from [(True, False), (None, False), ("x", False), ([], False), ({"valu": 1}, False)]
        return
    flags = "bool" in one.type
    yield from [(True, flags), (0, flags), (1.0, flags), ("TRUE", flags)]
    yield from [(1.5, False), ("x", False), (None, False), ([], False)]
    yield from ((word, True) for word in one.choices)
    yield [*one.choices, *([True, "false"] if flags else [])], True


@pytest.mark.parametrize("name", METHODS)
def test_every_parameter(name: str) -> None:
    method = METHODS[name]
    recipe = minimal(method)
    said = recipe.get("parameters", {})
    for one in method.parameters.values():
        for value, good in values(one):
            check_value({**recipe, "parameters": {**said, one.name: value}}, good=good)
            models = [{**model, "parameters": {one.name: value}} for model in recipe["models"]]
            check_value({**recipe, "models": models}, good=good and one.per == "model")
        without = {key: value for key, value in said.items() if key != one.name}
        check({**recipe, "parameters": without}, good=not one.required)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_s_models(name: str) -> None:
    method = METHODS[name]
    recipe = minimal(method)
    fewest, most = method.branches
    for word in (name, *method.aliases):
        check({**recipe, "merge_method": word}, good=True)
    without = {key: value for key, value in recipe.items() if key != "base_model"}
    check(without, good=method.base in {"none", "optional"})
    check({**recipe, "models": recipe["models"][1:]}, good=False)
    others = {key: value for key, value in recipe.items() if key != "models"}
    for count in (1, 2, 3):
        models = listed(*"abc"[:count], method=method)
        fits = count >= fewest and (most is None or count <= most)
        # One too many may be the base, and the base one too few: only the plan can tell.
        known = "base_model" not in recipe or most is None or count != most + 1
        if known or method.folds:
            check({**others, "models": models}, good=fits or method.folds)
        if known:
            check({**others, "slices": [{"sources": models}]}, good=fits)
        if "base_model" in recipe and count >= fewest:
            models = [*listed("base"), *models]
            check({**others, "models": models}, good=fits or method.folds)
            check({**others, "slices": [{"sources": models}]}, good=fits)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_s_modifiers(name: str) -> None:
    method = METHODS[name]
    recipe = minimal(method)
    check({**recipe, "lines": BOTH}, good="base_model" in recipe)
    weight = "weight" in method.parameters
    unsaid = {key: value for key, value in recipe.get("parameters", {}).items() if key != "weight"}
    check({**recipe, "parameters": unsaid, "auto_weight": "nan"}, good=weight)
    models = [{**model, "importance": forms.FISHER.format(model["model"])} for model in recipe["models"]]
    delta = method.space == "delta" and "base_model" in recipe
    mean = method.base == "none" and method.grain == "element" and weight
    check({**recipe, "models": models}, good=delta or mean)


@pytest.mark.parametrize(
    "recipe",
    [
        ties(parameters={"weight": 1, "density": "1.5"}),
        ties(parameters={"weight": {"filter": "mlp", "value": 1}}),
        ties(parameters={"weight": [{"filter": "nothing", "value": 1}, {"value": 1}]}),
        ties(parameters={"weight": [1, 0], "scope": "model"}),
        ties(models=listed("a", "a")),
        ties(models=listed("a", "nothing")),
        ties(models=[*listed("a", parameters={"weight": 1}), *listed("b")], parameters=...),
        ties(models=..., slices=[{"sources": listed("a", layer_range=[0, 9])}]),
        ties(models=..., slices=[{"sources": listed("a", layer_range=[1, 1])}]),
        ties(rename={"from": "model.", "to": "model."}),
    ],
)
def test_what_only_the_plan_can_tell(recipe: Recipe) -> None:
    assert by_engine(recipe)
    assert not by_schema(recipe)


TOKEN = {"kind": "model_token", "model": "a", "token": "<s>"}


@pytest.mark.parametrize(
    ("said", "good"),
    [
        ({"tokenizer": {"source": "union", "tokens": {"<s>": {"source": "a", "force": True}}}}, True),
        ({"tokenizer": {"tokens": {"<s>": {"source": TOKEN}, "</s>": {"source": {"kind": "zero"}}}}}, True),
        ({"tokenizer": {"tokens": {"<s>": {"source": {"kind": "model_token", "model": "a", "token_id": 1}}}}}, True),
        ({"tokenizer": {"pad_to_multiple_of": 64}, "chat_template": "chatml"}, True),
        ({"chat_template": "{{ messages }}"}, True),
        ({"models": listed("a+lora", "./b+./lora")}, True),
        ({"tokenizer": {"pad_to_multiple_of": 0}}, False),
        ({"tokenizer": {"pad_to_multiple_of": 65537}}, False),
        ({"tokenizer": {"tokens": {"<s>": {"force": True}}}}, False),
        ({"tokenizer": {"tokens": {"<s>": {"source": "a", "force": 1}}}}, False),
        ({"chat_template": "chatlm"}, False),
        ({"chat_template": None, "tokenizer": None}, True),
        ({"tokenizer": {"tokens": ["<s>"]}}, False),
        ({"tokenizer": {"tokens": {"<s>": "a"}}}, False),
        ({"tokenizer": {"tokens": {"<s>": {"source": "a", "forse": True}}}}, False),
        ({"tokenizer": {"tokens": {"<s>": {"source": {"kind": "one"}}}}}, False),
        ({"tokenizer": {"tokens": {"<s>": {"source": {"kind": "zero", "model": "a"}}}}}, False),
        ({"tokenizer": {"tokens": {"<s>": {"source": {"kind": "model_token", "model": "a"}}}}}, False),
        ({"tokenizer": {"tokens": {"<s>": {"source": {**TOKEN, "token_id": 1}}}}}, False),
        ({"chat_template": 1}, False),
    ],
)
def test_tokenizers_templates_and_adapters(said: Recipe, good: bool) -> None:  # noqa: FBT001 (a column of the table)
    check(ties(**said), good=good)


def test_the_package_ships_what_the_command_prints(tmp_path: Path) -> None:
    # `make docs` writes it anew.
    assert program.run("schema").stdout == SHIPPED.read_text()
    assert program.run("schema", "-o", tmp_path / "s.json").stdout == ""
    assert (tmp_path / "s.json").read_bytes() == SHIPPED.read_bytes()
    said = program.run("schema", "-o", tmp_path / "nowhere" / "s.json")
    assert (said.returncode, said.stdout) == (1, "")
    assert said.stderr.startswith("error: ")
    assert json.loads(SHIPPED.read_text()) == SCHEMA
    Draft202012Validator.check_schema(SCHEMA)


def test_every_key_and_parameter_is_described() -> None:
    closed = {name: one for name, one in SCHEMA["$defs"].items() if "additionalProperties" in one}
    assert closed.keys() == {"inner", "listed", "source", "slice", "module", "rule"}
    for name, one in {"recipe": SCHEMA, **closed}.items():
        assert not [key for key, about in one["properties"].items() if not about.get("description")], name
    for name, method in METHODS.items():
        for key, about in SCHEMA["$defs"][f"{name}_parameters"]["properties"].items():
            assert about["description"].lower().startswith(method.parameters[key].help[:20].lower())
            assert about.get("default") == method.parameters[key].default


def test_recipes_of_the_documents_fit() -> None:
    found = 0
    for document in (ROOT / "README.md", ROOT / "docs" / "recipes.md"):
        for block in re.findall(r"^(merge_method: .*?)^(?:```|END)", document.read_text(), re.MULTILINE | re.DOTALL):
            found += 1
            assert not by_schema(yaml.parse(block.encode(), file=document.name).content)
    assert found >= 5
