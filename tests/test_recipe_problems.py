"""Everything that is wrong with a recipe is told at once, each with its line and what to do."""

from __future__ import annotations

from pathlib import Path

import branchmerge as bm
import program
import pytest

WRONG = """\
merge_method: ties
dype: bfloat16
models:
  - model: a
    parameters:
      densty: 0.5
      weight: 1
  - model: nothing
    parameters: &p
      weight: one
  - model: nothing-else
    parameters: *p
base_model: base
parameters:
  lambda: .nan
  normalize: yes
allow: {mising: base}
base_model: base
"""


def test_all_problems_with_their_lines(models: Path) -> None:
    (models / "wrong.yml").write_text(WRONG)
    for arguments in (["plan", "wrong.yml"], ["merge", "wrong.yml", "out"]):
        said = program.run(*arguments, cwd=models)
        assert (said.returncode, said.stdout) == (2, "")
        told = [line for line in said.stderr.splitlines() if line.startswith("error: ")]
        lines = [int(line.split(":")[2]) for line in told]
        assert lines == sorted(lines)
        assert {2, 6, 8, 10, 11, 15, 16, 17, 18} <= set(lines)
        assert "did you mean `dtype`?" in said.stderr
        assert "did you mean `density`?" in said.stderr
    assert not (models / "out").exists()


def test_problems_in_python(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(models)
    Path("wrong.yml").write_text(WRONG)
    plan = bm.plan("wrong.yml")
    assert not plan.ok
    with pytest.raises(bm.RecipeError) as caught:
        bm.merge("wrong.yml", "out")
    assert caught.value.problems == plan.problems
    assert {problem.file for problem in plan.problems} == {"wrong.yml"}
    assert "wrong.yml:2: " in str(caught.value)


@pytest.mark.parametrize("key", ["chat_template"])
def test_what_is_not_understood_yet_is_refused_by_name(models: Path, key: str) -> None:
    (models / "r.yml").write_text(f"merge_method: arcee\nmodels: [{{model: a}}, {{model: b}}]\n{key}: x\n")
    said = program.run("plan", "r.yml", cwd=models)
    assert said.returncode == 2
    assert "error: r.yml:3: " in said.stderr
    assert f"`{key}`" in said.stderr


@pytest.mark.parametrize("key", ["int8_mask: true", "residual_weight: 0.5"])
def test_dead_keys_warn(models: Path, key: str) -> None:
    (models / "r.yml").write_text(f"merge_method: arcee\nmodels: [{{model: a}}, {{model: b}}]\nbase_model: a\n{key}\n")
    said = program.run("merge", "r.yml", "out", cwd=models)
    assert said.returncode == 0, said.stderr
    warnings = [line for line in said.stderr.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert key.split(":", maxsplit=1)[0] in warnings[0]


@pytest.mark.parametrize(
    ("recipe", "part"),
    [
        (
            (
                "merge_method: linear\n"
                "models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: -1}}]\n"
            ),
            "weight",
        ),
        (
            "merge_method: ties\nbase_model: base\nmodels: [{model: a}]\nparameters: {weight: 1, density: 1.5}\n",
            "density",
        ),
        ("merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: b}]\nparameters: {t: 1e999}\n", "t"),
        ("merge_method: linear\nmodels: [{model: a}, {model: b}]\n", "weight"),
        ("merge_method: passthrough\nmodels: [{model: a}, {model: b}]\n", "passthrough"),
        ("merge_method: ties\nmodels: [{model: a}]\nparameters: {weight: 1}\n", "base"),
        ("merge_method: arcee\nmodels: []\n", "models"),
        ("merge_method: arcee\n", "models"),
        ("models: [{model: a}]\n", "merge_method"),
        ("merge_method: arcee\nmodels: [{model: a}, {model: b}]\nout_dtype: bfloat\n", "bfloat16"),
        ("merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: [0, 1]}\n", "weight"),
        ("merge_method: arcee\nmodels: [{model: a}, {model: org/name}]\n", "org/name"),
        ("merge_method: arcee\nmodels: [{model: a}, {model: b+lora}]\n", "lora"),
        ("merge_method: arcee\nmodels: [{model: a}, {model: b}]\nseed: x\n", "seed"),
    ],
)
def test_what_cannot_be_meant(models: Path, recipe: str, part: str) -> None:
    (models / "r.yml").write_text(recipe)
    said = program.run("plan", "r.yml", cwd=models)
    assert said.returncode == 2, said.stdout + said.stderr
    assert part in said.stderr
    assert "r.yml" in said.stderr
