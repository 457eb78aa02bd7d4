"""`model+adapter` stands wherever a checkpoint may: what peft would merge, made where it is read."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import branchmerge as bm
import checkpoints
import numpy as np
import program
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

PROJECTIONS = ["q_proj", "up_proj", "down_proj"]
ADAPTERS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": PROJECTIONS},
    "stable": {"target_modules": PROJECTIONS, "use_rslora": True},
    "magnitudes": {"target_modules": PROJECTIONS, "use_dora": True},
    "patterns": {
        "target_modules": PROJECTIONS,
        "rank_pattern": {"q_proj": 6, r"layers\.1\.mlp\.up_proj": 2},
        "alpha_pattern": {r".*layers\.\d+\.mlp\.down_proj": 3},
    },
    "embeddings": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "saved": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "biases": {"target_modules": ["q_proj"], "bias": "all"},
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [3, 17, 1]},
}


def model(dtype: Any = None) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=32,
        intermediate_size=1200,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=41,
        attention_bias=True,
        tie_word_embeddings=False,
    )
    return transformers.LlamaForCausalLM(config).to(dtype or torch.float32)


def train(adapted: Any, seed: int) -> None:
    """Give every trained weight other values, as training would."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if weight.requires_grad:
                scale = 0.1 if "magnitude" in name else 0.05
                weight.add_(torch.randn_like(weight) * scale)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("adapters")
    with warnings.catch_warnings():
        # Of peft, about other libraries.
        warnings.simplefilter("ignore")
        make(root)
    return root


def make(root: Path) -> None:
    model().save_pretrained(root / "base")
    for seed, (name, said) in enumerate(ADAPTERS.items(), 1):
        config = peft.LoraConfig(**{"r": 4, "lora_alpha": 8, **said})
        adapted = peft.get_peft_model(model(), config)
        train(adapted, seed)
        adapted.save_pretrained(root / name)
        merged = adapted.merge_and_unload()
        merged.save_pretrained(root / f"{name}-merged")


@pytest.fixture
def here(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for one in models.iterdir():
        (tmp_path / one.name).symlink_to(one)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def alone(name: str) -> dict[str, Any]:
    return {"merge_method": "passthrough", "models": [{"model": name}]}


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("io", ["map", "read"])
def test_an_adapter_is_what_peft_makes_of_it(here: Path, name: str, io: str) -> None:
    bm.merge(alone(f"base+{name}"), out="out", io=io, threads=2)
    merged, expected = checkpoints.read(here / "out"), checkpoints.read(here / f"{name}-merged")
    base = checkpoints.read(here / "base")
    assert merged.keys() == expected.keys() == base.keys()
    changed = 0
    for tensor, values in merged.items():
        np.testing.assert_allclose(values, expected[tensor], rtol=3e-6, atol=3e-8, err_msg=tensor)
        same = np.array_equal(checkpoints.bits(values), checkpoints.bits(base[tensor]))
        assert same == np.array_equal(expected[tensor], base[tensor])
        changed += not same
    assert changed > 1
    assert bm.verify("out").ok


@pytest.mark.parametrize("method", ["linear", "ties", "dare_ties", "della_linear", "arcee", "karcher", "iso_c"])
def test_adapted_models_merge_like_checkpoints(here: Path, method: str) -> None:
    """The bits of a merge of whole checkpoints, where rounding to F32 is all that is between."""
    names = ["plain", "magnitudes"] if method != "arcee" else ["plain"]
    spec = bm.methods()[method].parameters
    parameters = {name: value for name, value in {"weight": 0.5, "density": 0.6}.items() if name in spec}

    def recipe(form: str) -> dict[str, Any]:
        listed = [{"model": form.format(name), "parameters": parameters} for name in names]
        base = {"base_model": "base"} if method not in {"linear", "karcher"} else {}
        if method == "arcee":
            listed.append({"model": "base"})
        return {"merge_method": method, **base, "models": listed}

    for name in names:
        bm.merge(alone(f"base+{name}"), out=f"{name}-whole")
    bm.merge(recipe("base+{}"), out="one", threads=1)
    bm.merge(recipe("base+{}"), out="two", threads=2, io="map")
    bm.merge(recipe("{}-whole"), out="whole")
    assert (here / "one/model.safetensors").read_bytes() == (here / "two/model.safetensors").read_bytes()
    one, whole = checkpoints.read(here / "one"), checkpoints.read(here / "whole")
    for tensor, values in one.items():
        np.testing.assert_array_equal(values, whole[tensor], err_msg=tensor)


def test_the_usual_way_to_apply_an_adapter(here: Path) -> None:
    """Base and only input are the same `model+adapter`, as recipes on model cards have it."""
    source = {"model": "./base+./plain/", "layer_range": [0, 2], "parameters": {"weight": 1.0}}
    recipe = {"merge_method": "task_arithmetic", "base_model": "./base+./plain/", "slices": [{"sources": [source]}]}
    bm.merge(recipe, out="out")
    bm.merge(alone("base+plain"), out="plainly")
    assert (here / "out/model.safetensors").read_bytes() == (here / "plainly/model.safetensors").read_bytes()


def test_the_manifest_names_both(here: Path) -> None:
    said = program.run(
        "fuse", "base+plain", "base+stable", "--method", "linear", "-p", "weight=0.5", "-o", "o", cwd=here
    )
    assert said.returncode == 0, said.stderr
    manifest = json.loads((here / "o/branchmerge.json").read_text())
    assert [one["label"] for one in manifest["inputs"]] == ["base", "plain", "stable"]
    assert [one["model"] for one in manifest["recipe"]["models"]] == ["base+plain", "base+stable"]
    assert bm.merge(manifest["recipe"], out="o").status == "up to date"


def test_a_directory_with_a_plus_is_a_directory(here: Path) -> None:
    (here / "c+d").symlink_to(here / "base", target_is_directory=True)
    bm.merge(alone("c+d+plain"), out="out")
    bm.merge(alone("base+plain"), out="plainly")
    assert (here / "out/model.safetensors").read_bytes() == (here / "plainly/model.safetensors").read_bytes()


def test_adapters_stand_on_each_other(here: Path) -> None:
    bm.merge(alone("base+plain"), out="once")
    bm.merge(alone("once+stable"), out="twice")
    bm.merge(alone("base+plain+stable"), out="out")
    merged, expected = checkpoints.read(here / "out"), checkpoints.read(here / "twice")
    for tensor, values in merged.items():
        np.testing.assert_array_equal(values, expected[tensor])


def edited(here: Path, name: str, settings: dict[str, Any], tensors: dict[str, Any] | None = None) -> str:
    """A copy of an adapter with other settings and tensors."""
    copy = here / "edited"
    copy.mkdir()
    said = json.loads((here / name / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps({**said, **settings}))
    stored = checkpoints.read(here / name)
    checkpoints.write_file(copy / "adapter_model.safetensors", {**stored, **(tensors or {})})
    return "base+edited"


FIRST = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("settings", "tensors", "message"),
    [
        ({"peft_type": "LOHA"}, {}, "its `peft_type` is `LOHA`, expected `LORA`"),
        ({"init_lora_weights": "pissa_niter_4"}, {}, "changed its base as training began"),
        ({"layer_replication": [[0, 1]]}, {}, "its `layer_replication` is not understood"),
        ({"r": 5}, {}, "its factors have ranks 4 and 4, and `r` is 5"),
        ({"lora_alpha": None}, {}, "`lora_alpha` of `adapter_config.json` is no number"),
        ({"alpha_pattern": {"(": 1}}, {}, "`(` is a pattern that is not understood"),
        ({}, {f"{FIRST}.lora_A.weight": (4, 31)}, "the adapter's shape differs"),
        ({}, {f"{FIRST}.lora_A.weight": (3, 32)}, "its factors have ranks 4 and 3"),
        ({}, {f"{FIRST}.lora_A.weight": (4, 32, 1)}, "expected matrices"),
        ({}, {f"{FIRST}.lora_B.bias": (32,)}, "biases of adapters"),
        ({}, {f"{FIRST}.lora_magnitude_vector": (31,)}, "the adapter's shape differs"),
        ({}, {"base_model.model.model.layers.2.w.lora_A.weight": (4, 8)}, "one is missing"),
        ({}, {"base_model.model.model.other.weight": (4, 8)}, "it changes a tensor that `base` has not"),
        ({}, {"base_model.model.lm_head.weight": (43, 32)}, "the adapter's shape differs"),
    ],
)
def test_what_does_not_fit_is_told(here: Path, settings: dict[str, Any], tensors: dict[str, Any], message: str) -> None:
    arrays = {name: np.zeros(shape, np.float32) for name, shape in tensors.items()}
    plan = bm.plan(alone(edited(here, "plain", settings, arrays)))
    assert any(message in str(problem) for problem in plan.problems), plan.problems


def test_what_is_no_adapter_is_told(here: Path) -> None:
    (here / "empty").mkdir()
    for name, message in {"base+empty": "an adapter is", "base+none": "none", "plain": "name it with its base"}.items():
        problems = bm.plan(alone(name)).problems
        assert any(message in f"{problem} {problem.hint}" for problem in problems), problems


def test_resized_embeddings_follow_their_tokens(here: Path) -> None:
    def tokenizer(path: Path, count: int) -> None:
        vocabulary = {f"t{row}": row for row in range(count)}
        said = {"added_tokens": [], "model": {"type": "BPE", "vocab": vocabulary, "merges": []}}
        (path / "tokenizer.json").write_text(json.dumps(said))

    rows = np.arange(43 * 32, dtype=np.float32).reshape(43, 32)
    grown = {f"base_model.model.{name}.weight": rows for name in ("model.embed_tokens", "lm_head")}
    edited(here, "plain", {}, grown)
    base = here / "own"
    base.mkdir()
    for one in (here / "base").iterdir():
        (base / one.name).symlink_to(one.resolve())
    tokenizer(base, 41)
    tokenizer(here / "edited", 43)
    listed = [{"model": "own+edited", "parameters": {"weight": 1}}]
    recipe = {"merge_method": "task_arithmetic", "base_model": "own", "models": listed}
    assert bm.plan(recipe).problems
    bm.merge({**recipe, "tokenizer_source": "union"}, out="out")
    np.testing.assert_allclose(checkpoints.read(here / "out")["lm_head.weight"], rows, rtol=1e-6)
    assert json.loads((here / "out/config.json").read_text())["vocab_size"] == 43
