"""The Python functions as promised: what they take, return and raise."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path
from typing import Any

import branchmerge as bm
import checkpoints
import numpy as np
import pytest
from branchmerge import errors
from branchmerge.merge import model_card, recipe
from branchmerge.merge.results import Input


def test_fuse(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(models)
    result = bm.fuse("a", Path("b"))
    assert (result.out, result.status, result.method, result.inputs) == ("a-b-arcee", "done", "arcee", ("a", "b"))
    assert result.tensors == len(checkpoints.SHAPES)
    assert result.share_taken is not None
    assert 0 < result.share_taken < 1
    assert bm.verify("a-b-arcee").ok
    assert bm.fuse("a", "b").status == "up to date"


def test_fuse_takes_parameters_as_keywords(models: Path) -> None:
    branches = [models / "a", models / "b"]
    bm.fuse(
        *branches, base=models / "base", method="task_arithmetic", weight=[0.5, 0.25], lambda_=0.5, out=models / "out"
    )
    base, a, b = (checkpoints.read(models / name) for name in ("base", "a", "b"))
    for name, merged in checkpoints.read(models / "out").items():
        start, first, second = (one[name].astype(np.float64) for one in (base, a, b))
        expected = start + 0.5 * (0.5 * (first - start) + 0.25 * (second - start))
        np.testing.assert_allclose(merged.astype(np.float64), expected, rtol=2**-8, atol=1e-6)


def test_the_base_is_the_left_one_wherever_it_is_listed(models: Path) -> None:
    bm.fuse(models / "a", models / "b", base=models / "b", out=models / "x")
    bm.fuse(models / "b", models / "a", out=models / "y")
    assert (models / "x/model.safetensors").read_bytes() == (models / "y/model.safetensors").read_bytes()


def test_merge_takes_a_mapping(models: Path) -> None:
    said = {
        "merge_method": "slerp",
        "base_model": models / "a",
        "models": [{"model": models / "a"}, {"model": models / "b"}],
    }
    seen: list[bm.Progress] = []
    result = bm.merge(
        {**said, "parameters": {"t": np.float32(0.5)}},
        out=models / "out",
        threads=1,
        memory="1GiB",
        progress=seen.append,
    )
    assert result.threads == 1
    assert all(isinstance(one, bm.Progress) for one in seen)


def test_a_chain_is_the_fold(models: Path) -> None:
    inner = {
        "merge_method": "arcee",
        "models": [{"model": models / "b"}, {"model": models / "c"}],
        "base_model": models / "b",
    }
    chain = {"merge_method": "arcee", "models": [{"model": models / "a"}, {"model": inner}], "base_model": models / "a"}
    bm.merge(chain, out=models / "chain")
    bm.fuse(models / "a", models / "b", models / "c", out=models / "fold")
    assert (models / "chain/model.safetensors").read_bytes() == (models / "fold/model.safetensors").read_bytes()


def test_rounding_the_intermediate_is_writing_it(models: Path) -> None:
    inner = {
        "merge_method": "slerp",
        "base_model": models / "b",
        "models": [{"model": models / "b"}, {"model": models / "c"}],
        "parameters": {"t": 0.3},
    }
    bm.merge(inner, out=models / "mid")
    for source, out, more in ((models / "mid", "two", {}), (inner, "one", {"round_intermediate": "bf16"})):
        outer = {
            "merge_method": "arcee",
            "models": [{"model": models / "a"}, {"model": source}],
            "base_model": models / "a",
        }
        bm.merge({**outer, **more}, out=models / out)
    assert (models / "one/model.safetensors").read_bytes() == (models / "two/model.safetensors").read_bytes()


@pytest.mark.parametrize("options", [{"threads": 1}, {"threads": 7}, {"memory": "64MiB"}, {"io": "map"}])
def test_same_bytes_however_it_runs(models: Path, options: dict[str, Any]) -> None:
    said = {
        "merge_method": "dare_ties",
        "base_model": str(models / "base"),
        "models": [{"model": str(models / name)} for name in "abc"],
        "parameters": {"weight": 0.5, "density": 0.5},
        "seed": 3,
    }
    bm.merge(said, out=models / "x")
    bm.merge(said, out=models / "y", **options)
    for file in sorted((models / "x").iterdir()):
        assert file.read_bytes() == (models / "y" / file.name).read_bytes(), file.name


def test_plan_raises_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.yml").write_text("a: [")
    for source in (
        tmp_path / "nothing.yml",
        tmp_path / "bad.yml",
        tmp_path,
        {"merge_method": float("nan")},
        {},
        {"a": object()},
    ):
        plan = bm.plan(source)
        assert plan.problems
        assert not plan.ok
        assert str(plan)
    assert bm.plan({}, memory="much").problems[0].message == "`memory` is `much`, expected a size"


def test_plan(models: Path) -> None:
    plan = bm.plan({"merge_method": "linear", "models": [{"model": str(models / "a")}], "parameters": {"weight": 1}})
    assert plan.ok
    assert plan.output["tensors"] == len(checkpoints.SHAPES)
    assert plan.read_bytes >= plan.output["bytes"] > 0
    assert plan.memory["private"] > 0
    assert [one.label for one in plan.inputs] == ["a"]
    assert str(models) not in json.dumps(plan.recipe)


def test_methods() -> None:
    known = bm.methods()
    names = ["arcee", "linear", "slerp", "task_arithmetic", "ties", "dare_linear", "dare_ties", "passthrough"]
    assert set(names) <= set(known)
    assert known["arcee"].aliases == ("arcee_fusion",)
    assert set(known["arcee"].parameters) == {"threshold", "divergence", "difference", "quartiles", "strict"}
    assert known["ties"].parameters["density"].range == (0.0, 1.0)
    for method in known.values():
        for parameter in method.parameters.values():
            assert parameter.help


def test_errors_are_ours(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(models)
    with pytest.raises(bm.RecipeError, match="nothing"):
        bm.fuse("a", "nothing", out="out")
    (models / "broken").mkdir()
    (models / "broken/model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(bm.CheckpointError) as caught:
        bm.fuse("a", "broken", out="out")
    assert "broken" in str(caught.value)
    (models / "out").mkdir()
    (models / "out/precious").touch()
    with pytest.raises(bm.OutputExists) as exists:
        bm.fuse("a", "b", out="out")
    assert exists.value.hint
    assert "no manifest" in bm.verify("a").problems[0].message


def test_a_tensor_that_is_not_finite_is_named(models: Path) -> None:
    tensors = checkpoints.weights(9, of=1)
    tensors["model.norm.weight"][3] = np.nan
    checkpoints.write(models / "nan", tensors)
    with pytest.raises(bm.CheckpointError) as caught:
        bm.fuse(models / "a", models / "nan", out=models / "out")
    assert caught.value.tensor == "model.norm.weight"
    assert caught.value.branch == "nan"
    result = bm.fuse(models / "a", models / "nan", out=models / "out", allow={"nan": "carry"})
    assert [one["rule"] for one in result.allowed] == ["nan"]


@pytest.mark.parametrize("io", ["map", "read"])
def test_integers_that_differ_are_refused(io: str, tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        counts = {"counts": np.full(3, seed, dtype=np.int64)}
        checkpoints.write(tmp_path / name, checkpoints.weights(seed) | counts)
    with pytest.raises(bm.CheckpointError) as caught:
        bm.fuse(tmp_path / "a", tmp_path / "b", out=tmp_path / "out", io=io)
    assert str(caught.value) == "tensor `counts`: branch `b`: I64 values do not merge, found others than in `a`"
    assert caught.value.hint


def test_allow(models: Path) -> None:
    tensors = checkpoints.weights(9, of=1)
    del tensors["lm_head.weight"]
    checkpoints.write(models / "short", tensors)
    with pytest.raises(bm.RecipeError) as caught:
        bm.fuse(models / "a", models / "short", out=models / "out")
    assert "lm_head.weight" in str(caught.value)
    assert "missing" in (caught.value.hint or "")
    bm.fuse(models / "a", models / "short", out=models / "out", allow=["missing=base"])
    merged = checkpoints.read(models / "out")["lm_head.weight"]
    np.testing.assert_array_equal(
        checkpoints.bits(merged), checkpoints.bits(checkpoints.read(models / "a")["lm_head.weight"])
    )


def test_config_tells_of_a_head_that_the_base_has_not(models: Path) -> None:
    tensors = checkpoints.weights(9, of=1)
    del tensors["lm_head.weight"]
    config = {"model_type": "llama", "tie_word_embeddings": True, "torch_dtype": "bfloat16"}
    checkpoints.write(models / "tied", tensors, config=config)
    recipe = {"merge_method": "linear", "base_model": str(models / "tied"), "parameters": {"weight": 0.5}}
    listed = [{"model": str(models / name)} for name in ("tied", "a")]
    bm.merge({**recipe, "models": listed}, out=models / "out", allow=["extra=copy"])
    said = json.loads((models / "out/config.json").read_text())
    assert said == {**config, "tie_word_embeddings": False}
    assert "lm_head.weight" in checkpoints.read(models / "out")


def test_an_error_of_the_callback_comes_out(tmp_path: Path) -> None:
    for name in ("a", "b"):
        checkpoints.write_large(tmp_path / name, tensors=16, elements=1 << 22)

    def stop(_: bm.Progress) -> None:
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        bm.fuse(tmp_path / "a", tmp_path / "b", out=tmp_path / "out", progress=stop)
    assert (tmp_path / "out.partial").is_dir()


def test_an_interrupt_comes_out_and_the_gil_is_free(tmp_path: Path) -> None:
    for name in ("a", "b"):
        checkpoints.write_large(tmp_path / name, tensors=48, elements=1 << 22)
    ticks: list[float] = []

    def tick() -> None:
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            ticks.append(time.monotonic())
            time.sleep(0.01)
        signal.raise_signal(signal.SIGINT)

    thread = threading.Thread(target=tick)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        bm.fuse(tmp_path / "a", tmp_path / "b", out=tmp_path / "out")
    late = time.monotonic() - ticks[-1]
    thread.join()
    assert late < 1
    assert len(ticks) > 5


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("8GiB", 8 << 30),
        ("500MB", 500_000_000),
        ("1.5 GB", 1_500_000_000),
        ("7", 7),
        (7, 7),
        ("2kib", 2048),
        (".5MB", 500_000),
    ],
)
def test_sizes(said: str | int, expected: int) -> None:
    assert recipe.size(said, "memory") == expected


@pytest.mark.parametrize("said", ["5B", "8G", "x", "", "-1", 0, -1, "1.5", "1e9", "0MB", True, 1.5, None, "9999999TB"])
def test_wrong_sizes(said: Any) -> None:
    with pytest.raises(bm.RecipeError, match="memory"):
        recipe.size(said, "memory")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (["x/a", "b/"], "a-b-arcee"),
        ([Path("/"), "b"], "root-b-arcee"),
        (["org/name", {"merge_method": "x"}], "name-merge-arcee"),
    ],
)
def test_default_out(said: list[Any], expected: str) -> None:
    assert recipe.default_out(said, "arcee_fusion", bm.methods()) == expected


def test_a_long_default_out_is_cut() -> None:
    assert len(recipe.default_out(["x" * 100] * 50, "arcee", bm.methods()).encode()) < 200


CONTRACT = Path(__file__).parent / "contract" / "errors.json"
RAISED = {
    "recipe": bm.RecipeError,
    "checkpoint": bm.CheckpointError,
    "output_exists": bm.OutputExists,
    "cancelled": KeyboardInterrupt,
}


@pytest.mark.parametrize("said", json.loads(CONTRACT.read_text()), ids=lambda said: said["message"].split("`: ")[-1])
def test_every_kind_of_error_becomes_its_exception(said: dict[str, Any]) -> None:
    error = errors.from_core(json.dumps(said))
    assert said["message"] in str(error)
    if said["class"] == "os":
        expected = bm.BranchmergeError if said["errno"] is None else OSError
        assert isinstance(error, expected)
        assert getattr(error, "errno", None) == said["errno"]
        assert getattr(error, "filename", said["path"]) == said["path"]
    else:
        assert type(error) is RAISED[said["class"]]
    if isinstance(error, bm.BranchmergeError):
        assert (error.tensor, error.branch, error.path) == (said["tensor"], said["branch"], said["path"])
    if not isinstance(error, KeyboardInterrupt):
        assert getattr(error, "hint", None) == said["hint"]


def test_an_error_of_several_problems_keeps_them() -> None:
    problems = [{"message": "x", "at": "a"}, {"message": "y"}]
    several = errors.from_core(json.dumps({"class": "recipe", "message": "m", "problems": problems}))
    assert isinstance(several, bm.RecipeError)
    assert [problem.message for problem in several.problems] == ["x", "y"]


def test_a_message_is_bounded() -> None:
    problems = [errors.Problem("x" * 500) for _ in range(1000)]
    error = errors.from_problems(problems)
    assert len(str(error)) <= errors.LONGEST_MESSAGE
    assert str(error).startswith("1000 problems\n")
    assert str(error).endswith("more")
    assert len(error.problems) == 1000


def test_the_model_card_keeps_hostile_names_in_their_place() -> None:
    import yaml

    hostile = "x\n---\n# `a` ```` {b: 1}"
    inputs = (
        Input(hostile, "/p/x", 1, 2),
        Input("1e5", "/p/1e5", 1, 2),
        Input("abc", "/c/models--org--Name-1.5B/snapshots/abc", 1, 2),
    )
    plan = bm.Plan((), method="arcee", recipe={"models": [{"model": hostile}]}, inputs=inputs, base="abc")
    text = model_card.write(plan).decode()
    front = yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n"))
    assert front["base_model"][1:] == ["1e5", "org/Name-1.5B"]
    assert isinstance(front["base_model"][0], str)
    assert front["base_model_relation"] == "merge"
    assert front["tags"] == ["merge", "branchmerge", "arcee"]
    body = text.split("\n---\n", 1)[1]
    assert not [line for line in body.splitlines() if line.startswith("---")]
    assert "/p/x" not in text
    assert "org/Name-1.5B" in body


def test_the_model_card_of_a_merge(models: Path) -> None:
    bm.fuse(models / "a", models / "b", out=models / "out")
    text = (models / "out/README.md").read_text()
    assert str(models) not in text
    assert "- a\n- b\n" in text
    assert "merge_method: arcee" in text
