"""A script that changes `mergekit-yaml` to `branchmerge merge`: several documents, flags, gradients."""

from __future__ import annotations

from pathlib import Path

import branchmerge as bm
import checkpoints
import program
import pytest
from branchmerge.cli import mergekit

SHAPES = {f"model.layers.{n}.w.weight": (6, 6) for n in range(3)} | {"model.norm.weight": (6,)}
STAGES = """
name: inner
merge_method: linear
models:
  - {model: a, parameters: {weight: 0.7}}
  - {model: b, parameters: {weight: 0.3}}
dtype: bfloat16
---
merge_method: slerp
base_model: base
models: [{model: inner}, {model: base}]
parameters: {t: [0.2, 0.9]}
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for seed, name in enumerate(("base", "a", "b"), 1):
        checkpoints.write(tmp_path / name, checkpoints.weights(seed, of=1, shapes=SHAPES))
    return tmp_path


def test_documents_with_names_stand_for_models(models: Path) -> None:
    (models / "stages.yml").write_text(STAGES)
    said = program.run("merge", "stages.yml", "out", cwd=models)
    assert said.returncode == 0, said.stderr
    assert "`models[0].model.dtype` does nothing" in said.stderr
    inner = {
        "merge_method": "linear",
        "models": [{"model": str(models / name), "parameters": {"weight": w}} for name, w in (("a", 0.7), ("b", 0.3))],
    }
    nested = {
        "merge_method": "slerp",
        "base_model": str(models / "base"),
        "models": [{"model": inner}, {"model": str(models / "base")}],
        "parameters": {"t": [0.2, 0.9]},
    }
    bm.merge(nested, out=models / "nested")
    assert (models / "out/model.safetensors").read_bytes() == (models / "nested/model.safetensors").read_bytes()
    assert sorted(path.name for path in models.iterdir()) == ["a", "b", "base", "nested", "out", "stages.yml"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (STAGES.replace("name: inner\n", ""), "stages.yml:8: a second document without a `name`"),
        (STAGES.replace("{model: inner}", "{model: a}"), "no other document takes `inner` for a model"),
        (STAGES.replace("{model: a,", "{model: inner,"), "the document `inner` is made of itself"),
        (STAGES.replace("weight: 0.7", "wieght: 0.7"), "stages.yml:5: `models[0].model.models[0].parameters.wieght`"),
        (STAGES.replace("---\n", "---\nname: last\n"), "every document has a `name`"),
        (STAGES + "---\n- x\n", "a recipe is a mapping of keys"),
    ],
)
def test_documents_that_do_not_fit_are_told(models: Path, text: str, message: str) -> None:
    (models / "stages.yml").write_text(text)
    said = program.run("plan", "stages.yml", cwd=models)
    assert said.returncode == 2
    assert message in said.stderr


def test_flags_act_or_say_why_not(models: Path) -> None:
    (models / "r.yml").write_text("merge_method: arcee_fusion\nbase_model: a\nmodels: [{model: a}, {model: b}]\n")
    flags = [
        "--cuda",
        "--lazy-unpickle",
        "--out-shard-size",
        "100",
        "--random-seed",
        "7",
        "-j",
        "1",
        "--no-clone-tensors",
    ]
    said = program.run("merge", "r.yml", "out", *flags, "--lora-merge-cache", "x", "--copy-tokenizer", cwd=models)
    assert said.returncode == 0, said.stderr
    notes = [line for line in said.stderr.splitlines() if line.startswith("note: ")]
    needless = ("--copy-tokenizer", "--cuda", "--lazy-unpickle", "--lora-merge-cache")
    assert [line.split("`")[1] for line in notes] == list(needless)
    assert len(list((models / "out").glob("model-*.safetensors"))) == 3
    assert '"seed": 7' in (models / "out" / "branchmerge.json").read_text()
    quiet = program.run("merge", "r.yml", "quiet", "--cuda", "--quiet", cwd=models)
    assert (quiet.stderr, quiet.stdout) == ("", "")


@pytest.mark.parametrize("flag", [*mergekit.NEEDLESS, *mergekit.NEEDLESS_VALUES])
def test_every_flag_is_taken(models: Path, flag: str) -> None:
    (models / "r.yml").write_text("merge_method: arcee\nbase_model: a\nmodels: [{model: a}, {model: b}]\n")
    value = ["x"] if flag in mergekit.NEEDLESS_VALUES else []
    said = program.run("merge", "r.yml", "out", "--dry-run", flag, *value, cwd=models)
    assert said.returncode == 0, said.stderr
    assert f"note: `{flag}` is not needed: " in said.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--unsafe-truncate-embeddings"], "`--allow shape=overlap`"),
        (["--out-shard-size", "5G"], "expected a size"),
        (["--random-seed", "1", "--seed", "2"], "say the same"),
    ],
)
def test_flags_that_cannot_be_meant_are_told(models: Path, flags: list[str], message: str) -> None:
    (models / "r.yml").write_text("merge_method: arcee\nbase_model: a\nmodels: [{model: a}, {model: b}]\n")
    said = program.run("merge", "r.yml", "out", *flags, cwd=models)
    assert said.returncode == 2
    assert message in said.stderr
    assert not (models / "out").exists()


def test_gradients_on_the_command_line_and_in_python(models: Path) -> None:
    said = program.run("fuse", "a", "b", "--method", "slerp", "-p", "t=gradient(0, 0.5,1)", "-o", "out", cwd=models)
    assert said.returncode == 0, said.stderr
    bm.fuse(models / "a", models / "b", method="slerp", t=bm.gradient(0, 0.5, 1), out=models / "same")
    files = [(models / name / "model.safetensors").read_bytes() for name in ("out", "same")]
    assert files[0] == files[1]
    weights = [bm.gradient(0, 1), 0.5]
    bm.fuse(models / "a", models / "b", method="linear", weight=weights, out=models / "one")
    said = program.run(
        "fuse", "a", "b", "--method", "linear", "-p", "weight=gradient(0,1),0.5", "-o", "two", cwd=models
    )
    assert said.returncode == 0, said.stderr
    files = [(models / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]
    with pytest.raises(bm.RecipeError, match="a gradient has no values"):
        bm.gradient()
