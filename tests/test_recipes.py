"""What recipes say of some tensors: filters, gradients, slices, modules, rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import branchmerge as bm
import checkpoints
import numpy as np
import pytest
from checkpoints import Array

LAYERS = 5
PARTS = ("self_attn.q_proj", "mlp.up_proj")
SHAPES: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (12, 8),
    "model.norm.weight": (8,),
    "lm_head.weight": (12, 8),
} | {f"model.layers.{n}.{part}.weight": (8, 8) for n in range(LAYERS) for part in PARTS}
CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": LAYERS,
    "layer_types": ["full", "sliding", "full", "sliding", "full"],
    "eos_token_id": [1, 2, 3, 4, 5],
    "dtype": "float32",
}
Tensors = dict[str, Array]


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for seed, name in enumerate(("base", "a", "b"), 1):
        tensors = checkpoints.weights(seed, of=1, dtype="F32", scale=0.01, shapes=SHAPES)
        checkpoints.write(tmp_path / name, tensors, config=CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def merged(recipe: dict[str, Any], out: str = "out") -> Tensors:
    bm.merge(recipe, out=out, overwrite=True)
    return checkpoints.read(Path(out))


def deltas(**weights: Any) -> dict[str, Any]:
    """A recipe of task arithmetic, for which any weight of any tensor is easily told."""
    listed = [{"model": name, "parameters": {"weight": weight}} for name, weight in weights.items()]
    return {"merge_method": "task_arithmetic", "base_model": "base", "models": listed}


def expected(weights: dict[str, dict[str, float]]) -> Tensors:
    """Base plus weighted deltas, given the weights of each branch by tensor."""
    base = checkpoints.read(Path("base"))
    branches = {name: checkpoints.read(Path(name)) for name in weights}

    def of(name: str) -> Array:
        terms = [weights[branch][name] * (branches[branch][name].astype(np.float64) - base[name]) for branch in weights]
        return np.asarray(base[name] + sum(terms))

    return {name: of(name) for name in SHAPES}


def layer(name: str) -> int | None:
    return int(name.split(".")[2]) if ".layers." in name else None


def close(found: Tensors, right: Tensors) -> None:
    assert found.keys() == right.keys()
    for name, tensor in right.items():
        np.testing.assert_allclose(found[name], tensor, rtol=1e-5, atol=1e-7, err_msg=name)


def test_gradients_run_over_the_layers(models: Path) -> None:
    del models
    found = merged(deltas(a=[0, 0.5, 0.3], b=[1.0]))
    values = [0, 0.25, 0.5, 0.4, 0.3]
    # What is in no layer has the first value.
    weights = {name: values[layer(name) or 0] for name in SHAPES}
    close(found, expected({"a": weights, "b": dict.fromkeys(SHAPES, 1.0)}))


def test_the_first_filter_that_matches_counts(models: Path) -> None:
    del models
    weight = [
        {"filter": "self_attn", "value": [0, 1]},
        {"filter": "model.layers.[0-2].mlp.*", "value": 0.9},
        {"filter": "layers.4", "value": 0.1},
        {"value": "0.5"},
    ]
    found = merged(deltas(a=weight, b=0.0))

    def of(name: str) -> float:
        number = layer(name)
        if "self_attn" in name and number is not None:
            return number / 4
        if "mlp" in name and number is not None and number <= 2:
            return 0.9
        return 0.1 if number == 4 else 0.5

    close(found, expected({"a": {name: of(name) for name in SHAPES}, "b": dict.fromkeys(SHAPES, 0.0)}))


def test_a_models_own_values_come_before_those_of_all(models: Path) -> None:
    del models
    recipe = deltas(a={"filter": "mlp", "value": 0.2}, b=0.3)
    recipe["parameters"] = {"weight": [{"filter": "norm", "value": 2.0}, 0.7]}
    a = {name: 0.2 if "mlp" in name else 2.0 if "norm" in name else 0.7 for name in SHAPES}
    close(merged(recipe), expected({"a": a, "b": dict.fromkeys(SHAPES, 0.3)}))


def test_a_slice_over_all_layers_is_the_whole_model(models: Path) -> None:
    t = [{"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]}, {"filter": "mlp", "value": [1, 0]}, {"value": 0.5}]
    whole = {
        "merge_method": "slerp",
        "base_model": "base",
        "models": [{"model": "base"}, {"model": "a"}],
        "parameters": {"t": t},
    }
    sources = [{"model": name, "layer_range": [0, LAYERS]} for name in ("base", "a")]
    sliced = {key: value for key, value in whole.items() if key != "models"} | {"slices": [{"sources": sources}]}
    module = {key: value for key, value in whole.items() if key != "models"}
    module["modules"] = {"default": {"slices": [{"sources": sources}]}}
    first = merged(whole, "whole")
    for recipe in (sliced, module):
        other = merged(recipe, "other")
        assert all(first[name].tobytes() == other[name].tobytes() for name in SHAPES)
        assert (models / "other" / "config.json").read_text() == (models / "whole" / "config.json").read_text()
    name = "model.layers.0.self_attn.q_proj.weight"
    assert np.array_equal(first[name], checkpoints.read(Path("base"))[name])


def test_layers_are_stacked_anew(models: Path) -> None:
    slices = [
        {"sources": [{"model": "a", "layer_range": [0, 3]}]},
        {"sources": [{"model": "b", "layer_range": [2, 5]}]},
        {"sources": [{"model": "a", "layer_range": [4, 5]}]},
    ]
    found = merged({"merge_method": "passthrough", "slices": slices})
    a, b = (checkpoints.read(Path(name)) for name in "ab")
    order = [(a, 0), (a, 1), (a, 2), (b, 2), (b, 3), (b, 4), (a, 4)]
    right = {
        f"model.layers.{n}.{part}.weight": tensors[f"model.layers.{at}.{part}.weight"]
        for n, (tensors, at) in enumerate(order)
        for part in PARTS
    }
    # What stands before the layers is the first slice's, what follows them the last one's.
    right |= {"model.embed_tokens.weight": a["model.embed_tokens.weight"]}
    right |= {name: a[name] for name in ("model.norm.weight", "lm_head.weight")}
    assert found.keys() == right.keys()
    assert all(found[name].tobytes() == right[name].tobytes() for name in right)
    config = json.loads((models / "out" / "config.json").read_text())
    assert config["num_hidden_layers"] == 7
    assert config["layer_types"] == ["full", "sliding", "full", "full", "sliding", "full", "full"]
    assert config["eos_token_id"] == CONFIG["eos_token_id"]
    assert bm.verify("out").ok


def test_slices_have_parameters_of_their_own(models: Path) -> None:
    del models
    # The base of the first slice is listed with other layers than its branch.
    first = [
        {"model": "a", "layer_range": [0, 2], "parameters": {"weight": [0, 1]}},
        {"model": "base", "layer_range": [1, 3]},
    ]
    slices = [{"sources": first}, {"sources": [{"model": "b", "layer_range": [2, 5]}], "parameters": {"weight": 0.5}}]
    found = merged(
        {"merge_method": "task_arithmetic", "base_model": "base", "slices": slices, "parameters": {"weight": 9}}
    )
    base, a, b = (checkpoints.read(Path(name)) for name in ("base", "a", "b"))
    for part in PARTS:
        for n, (branch, of_branch, of_base, weight) in enumerate(
            [(a, 0, 1, 0.0), (a, 1, 2, 1.0), (b, 2, 2, 0.5), (b, 3, 3, 0.5), (b, 4, 4, 0.5)]
        ):
            start = base[f"model.layers.{of_base}.{part}.weight"].astype(np.float64)
            change = branch[f"model.layers.{of_branch}.{part}.weight"] - start
            np.testing.assert_allclose(
                found[f"model.layers.{n}.{part}.weight"], start + weight * change, rtol=1e-5, atol=1e-8
            )
    for name, branch, weight in (("model.embed_tokens.weight", a, 0.0), ("lm_head.weight", b, 0.5)):
        change = branch[name].astype(np.float64) - base[name]
        np.testing.assert_allclose(found[name], base[name] + weight * change, rtol=1e-5, atol=1e-8)


def test_rules_merge_some_tensors_otherwise(models: Path) -> None:
    del models
    recipe = deltas(a=0.5, b=0.5)
    recipe["rules"] = [
        {"filter": "embed", "merge_method": "passthrough"},
        {"filter": "*.mlp.*", "merge_method": "linear", "parameters": {"weight": [1, 3]}},
        {"filter": "norm", "merge_method": "ties", "parameters": {"weight": 1, "density": 0.5}},
    ]
    found = merged(recipe)
    base, a, b = (checkpoints.read(Path(name)) for name in ("base", "a", "b"))
    plain = expected({"a": dict.fromkeys(SHAPES, 0.5), "b": dict.fromkeys(SHAPES, 0.5)})
    for name in SHAPES:
        if "embed" in name:
            right = base[name]
        elif "mlp" in name:
            right = (a[name].astype(np.float64) + b[name]) / 2
        else:
            right = plain[name]
        if "norm" not in name:
            np.testing.assert_allclose(found[name], right, rtol=1e-5, atol=1e-7)
    ties = bm.fuse_tensors([a, b], base=base, method="ties", weight=1.0, density=0.5)
    assert ties["model.norm.weight"].tobytes() == found["model.norm.weight"].tobytes()


def test_modules_are_told_by_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = SHAPES | {"vision_tower.encoder.layers.0.w.weight": (8, 8), "multi_modal_projector.w": (8,)}
    for seed, name in enumerate(("base", "a"), 1):
        checkpoints.write(tmp_path / name, checkpoints.weights(seed, of=1, dtype="F32", shapes=shapes), config=CONFIG)
    monkeypatch.chdir(tmp_path)
    both = [{"model": name, "layer_range": [0, LAYERS]} for name in ("base", "a")]
    recipe: dict[str, Any] = {
        "merge_method": "slerp",
        "base_model": "base",
        "parameters": {"t": [0, 1]},
        "modules": {
            "text_decoder": {"slices": [{"sources": both}]},
            "vision_tower": {"models": [{"model": "base"}]},
            "multi_modal_projector": {"models": [{"model": "a"}, {"model": "base"}], "parameters": {"t": 1}},
        },
    }
    found = merged(recipe)
    base, a = (checkpoints.read(Path(name)) for name in ("base", "a"))
    assert found.keys() == shapes.keys()
    right = {
        "vision_tower.encoder.layers.0.w.weight": base,
        "multi_modal_projector.w": a,
        "model.embed_tokens.weight": base,
        "model.layers.0.mlp.up_proj.weight": base,
        "model.layers.4.mlp.up_proj.weight": a,
    }
    for name, tensors in right.items():
        np.testing.assert_allclose(found[name], tensors[name], rtol=1e-6)
    text = recipe["modules"].pop("text_decoder")
    with pytest.raises(bm.RecipeError, match="it is of none of the `modules`"):
        merged(recipe)
    recipe["modules"]["text_decoder"] = text
    del recipe["modules"]["vision_tower"], recipe["modules"]["multi_modal_projector"]
    recipe["modules"]["audio_tower"] = {"models": [{"model": "base"}]}
    with pytest.raises(bm.RecipeError, match="unknown module `audio_tower`"):
        merged(recipe)


@pytest.mark.parametrize(
    ("change", "at", "message"),
    [
        ({"parameters": {"lambda": [{"filter": "mpl", "value": 1}, 2]}}, "lambda", "unknown filter `mpl`"),
        ({"rules": [{"filter": "nrom", "merge_method": "passthrough"}]}, "rules[0].filter", "unknown filter `nrom`"),
        (
            {"parameters": {"lambda": {"filter": "mlp", "value": 1}}, "models": [{"model": "a"}]},
            "",
            "has no value|needs",
        ),
        (
            {"rules": [{"filter": "norm", "merge_method": "slerp", "parameters": {"t": 1}}]},
            "rules[0]",
            "does not take 2 models",
        ),
        ({"rules": [{"filter": "norm", "merge_method": "ties"}]}, "rules[0]", "`ties` needs `weight`"),
        ({"slices": [{"sources": [{"model": "a", "layer_range": [0, 1]}]}]}, "", "`models` and `slices` are given"),
    ],
)
def test_what_is_said_wrong_is_told(models: Path, change: dict[str, Any], at: str, message: str) -> None:
    del models
    with pytest.raises(bm.RecipeError, match=message) as caught:
        merged({**deltas(a=0.5, b=0.5), **change})
    assert any(at in (problem.at or "") for problem in caught.value.problems)


def test_a_required_value_that_no_filter_gives_is_told(models: Path) -> None:
    del models
    recipe = deltas(a=[{"filter": "mlp", "value": 1}], b=0.5)
    with pytest.raises(bm.RecipeError, match="`weight` has no value for it: no filter matches"):
        merged(recipe)


def test_ranges_past_the_end_are_told_with_their_place(models: Path) -> None:
    del models
    slices = [{"sources": [{"model": "a", "layer_range": [3, 9]}]}]
    with pytest.raises(bm.RecipeError, match=r"`layer_range` \[3, 9\] ends past the 5 layers of `a`") as caught:
        merged({"merge_method": "passthrough", "slices": slices})
    assert caught.value.problems[0].at == "slices[0].sources[0].layer_range"


def weights_taken(tensors: Tensors, out: Tensors, branch: Tensors) -> dict[str, float]:
    """How much of the branch's change each tensor of a result has."""
    taken = {}
    for name, base in tensors.items():
        delta = branch[name].astype(np.float64) - base
        taken[name] = round(float(((out[name] - base.astype(np.float64)) * delta).sum() / (delta**2).sum()), 3)
    return taken


def test_towers_count_their_layers_apart(models: Path) -> None:
    shapes = {f"text.layers.{n}.w.weight": (8, 8) for n in range(3)}
    shapes |= {f"vision.encoder.layers.{n}.w.weight": (8, 8) for n in range(5)}
    for seed, name in enumerate(("base", "a"), 1):
        checkpoints.write(models / name, checkpoints.weights(seed, of=1, dtype="F32", shapes=shapes), config={})
    out = merged(deltas(a=[0, 1]))
    taken = weights_taken(checkpoints.read(models / "base"), out, checkpoints.read(models / "a"))
    assert [taken[f"text.layers.{n}.w.weight"] for n in range(3)] == [0, 0.5, 1]
    assert [taken[f"vision.encoder.layers.{n}.w.weight"] for n in range(5)] == [0, 0.25, 0.5, 0.75, 1]


def test_layers_that_predict_later_tokens_follow_the_layers(models: Path) -> None:
    config = {**CONFIG, "num_hidden_layers": LAYERS - 1, "num_nextn_predict_layers": 1, "layer_types": None}
    for name in ("base", "a"):
        (models / name / "config.json").write_text(json.dumps(config))
    base, a = (checkpoints.read(models / name) for name in ("base", "a"))
    taken = weights_taken(base, merged(deltas(a=[0, 1])), a)
    assert [taken[f"model.layers.{n}.mlp.up_proj.weight"] for n in range(LAYERS)] == [0, 0.333, 0.667, 1, 0]
    slices = [{"sources": [{"model": "a", "layer_range": ends}]} for ends in ([0, 3], [1, 4])]
    stacked = merged({"merge_method": "passthrough", "slices": slices}, out="stacked")
    order = [0, 1, 2, 1, 2, 3, LAYERS - 1]
    for number, of in enumerate(order):
        name = "model.layers.{}.mlp.up_proj.weight"
        np.testing.assert_array_equal(stacked[name.format(number)], a[name.format(of)])
    assert max(layer(name) or 0 for name in stacked) == len(order) - 1
    said = json.loads((models / "stacked/config.json").read_text())
    assert (said["num_hidden_layers"], said["num_nextn_predict_layers"]) == (6, 1)
    with pytest.raises(bm.RecipeError, match=r"ends past the 4 layers of `a`"):
        merged({"merge_method": "passthrough", "slices": [{"sources": [{"model": "a", "layer_range": [0, 5]}]}]})


def test_a_layer_without_tensors_is_told(models: Path) -> None:
    tensors = {name: one for name, one in checkpoints.read(models / "a").items() if ".1." not in name}
    checkpoints.write(models / "gap", tensors)
    slices = [{"sources": [{"model": "gap", "layer_range": [0, 3]}]}]
    with pytest.raises(bm.RecipeError, match="`gap` has no tensor of layer 1, which the slice names"):
        merged({"merge_method": "passthrough", "slices": slices})


def test_a_base_with_another_number_of_layers_is_told(models: Path) -> None:
    del models
    sources = [{"model": "a", "layer_range": [0, 2]}, {"model": "base", "layer_range": [1, 4]}]
    recipe = {"merge_method": "task_arithmetic", "base_model": "base", "slices": [{"sources": sources}]}
    with pytest.raises(bm.RecipeError, match="differ in their number of layers: 2, 3"):
        merged({**recipe, "parameters": {"weight": 1}})


def test_a_parameter_of_another_method_warns(models: Path) -> None:
    del models
    recipe = {"merge_method": "model_stock", "base_model": "base", "models": [{"model": "a"}, {"model": "b"}]}
    plain = merged(recipe)
    result = bm.merge({**recipe, "parameters": {"weight": 0.5}}, out="warned")
    assert result.warnings == ("`parameters.weight` does nothing: it is no parameter of `model_stock`",)
    warned = checkpoints.read(Path("warned"))
    assert all(plain[name].tobytes() == warned[name].tobytes() for name in SHAPES)


def test_no_branch_besides_the_base_is_the_base(models: Path) -> None:
    del models
    result = bm.merge({**deltas(), "models": [{"model": "base"}]}, out="out")
    assert "no model is left besides the base" in result.warnings[0]
    base, found = checkpoints.read(Path("base")), checkpoints.read(Path("out"))
    assert all(base[name].tobytes() == found[name].tobytes() for name in SHAPES)


@pytest.mark.parametrize(
    ("wrapper", "plain"),
    [("module.", ""), ("_orig_mod.", ""), ("base_model.model.", ""), ("model.language_model.", "model.")],
)
@pytest.mark.parametrize("wrapped", ["base", "a"])
def test_wrappers_of_one_model_are_seen_through(models: Path, wrapper: str, plain: str, wrapped: str) -> None:
    right = merged(deltas(a=0.5, b=0.5))

    def name(said: str) -> str:
        return wrapper + said[len(plain) :] if said.startswith(plain) else said

    tensors = {name(key): tensor for key, tensor in checkpoints.read(models / wrapped).items()}
    checkpoints.write(models / wrapped, tensors, config=CONFIG)
    result = bm.merge(deltas(a=0.5, b=0.5), out="wrapped")
    found = checkpoints.read(Path("wrapped"))
    names = [name(key) if wrapped == "base" else key for key in right]
    assert sorted(found) == sorted(names)
    assert all(found[new].tobytes() == right[key].tobytes() for new, key in zip(names, right, strict=True))
    done = "left out" if wrapped == "a" else "put before"
    assert all(f"the wrapper `{wrapper}` is {done}" in warning for warning in result.warnings)
    assert len(result.warnings) == (1 if wrapped == "a" else 2)


def test_prefixes_are_renamed(models: Path) -> None:
    right = merged(deltas(a=0.5, b=0.5))
    tensors = {key.replace("model.", "decoder.", 1): one for key, one in checkpoints.read(models / "a").items()}
    checkpoints.write(models / "a", tensors, config=CONFIG)
    found = merged({**deltas(a=0.5, b=0.5), "rename": {"from": "decoder.", "to": "model."}})
    assert all(found[name].tobytes() == right[name].tobytes() for name in right)
    for rename, message in (
        ([{"from": "encoder.", "to": "model."}], "no tensor's name begins with `encoder.`"),
        ({"from": "encoder."}, "expected `{from: PREFIX, to: PREFIX}`"),
        ([{"from": "lm_head.weight", "to": "model.norm.weight"}], "two of its tensors would have this name"),
    ):
        with pytest.raises(bm.RecipeError, match=message):
            merged({**deltas(a=0.5, b=0.5), "rename": rename})
