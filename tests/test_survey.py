"""What is found over the whole model before any tensor is fused: weights by norms, and cuts by magnitude."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import branchmerge as bm
import checkpoints
import numpy as np
import pytest
from checkpoints import Array

SHAPES = {"embed.weight": (40, 24), "norm.weight": (24,)} | {f"model.layers.{n}.weight": (24, 24) for n in range(3)}
Tensors = dict[str, Array]


def models(directory: Path, dtype: str = "F32") -> tuple[Tensors, list[Tensors]]:
    """A base and two branches; the second one changes its last layer much more than the rest."""
    base = checkpoints.weights(1, dtype=dtype, shapes=SHAPES)
    branches = [checkpoints.weights(seed, of=1, dtype=dtype, scale=0.01, shapes=SHAPES) for seed in (2, 3)]
    last = "model.layers.2.weight"
    branches[1][last] = branches[1][last] + np.asarray(0.05, branches[1][last].dtype)
    for name, tensors in zip(("base", "a", "b"), (base, *branches), strict=True):
        checkpoints.write(directory / name, tensors)
    return base, branches


def recipe(directory: Path, method: str, parameters: dict[str, Any], **keys: Any) -> dict[str, Any]:
    branches = [{"model": str(directory / name)} for name in "ab"]
    said = {"merge_method": method, "models": branches, "parameters": parameters, **keys}
    return said if method == "linear" else {**said, "base_model": str(directory / "base")}


def flat(base: Tensors, branch: Tensors) -> Array:
    deltas = [branch[name].astype(np.float32) - base[name].astype(np.float32) for name in SHAPES]
    return np.concatenate([delta.astype(np.float64).ravel() for delta in deltas])


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F64"])
def test_ties_cuts_the_whole_model(tmp_path: Path, dtype: str) -> None:
    base, branches = models(tmp_path, dtype)
    said = recipe(tmp_path, "ties", {"weight": 0.5, "density": 0.3, "scope": "model"}, out_dtype="float64")
    result = bm.merge(said, out=tmp_path / "out")
    deltas = [flat(base, branch) for branch in branches]
    if dtype == "F64":
        deltas = [np.concatenate([(one[name] - base[name]).ravel() for name in SHAPES]) for one in branches]
    cuts = result.surveys[0]["cut"]
    for delta, cut in zip(deltas, cuts, strict=True):
        assert (np.abs(delta) > cut).sum() <= int(0.3 * len(delta)) <= (np.abs(delta) >= cut).sum()
    merged = checkpoints.read(tmp_path / "out")
    at = 0
    for name, shape in SHAPES.items():
        here = slice(at, at := at + int(np.prod(shape)))
        found = (merged[name] - base[name].astype(np.float64)).ravel()
        kept = [np.where(np.abs(delta[here]) > cut, delta[here], 0) for delta, cut in zip(deltas, cuts, strict=True)]
        clear = np.all([np.abs(delta[here]) != cut for delta, cut in zip(deltas, cuts, strict=True)], axis=0)
        sign = np.where(sum(kept) < 0, -1, 1)
        votes = [np.sign(one) == sign for one in kept]
        right = sum(one * vote for one, vote in zip(kept, votes, strict=True)) / np.maximum(sum(votes), 1)
        np.testing.assert_allclose(found[clear], right[clear], rtol=1e-5, atol=1e-7)
        assert clear.mean() > 0.5
    # The branch that changed one layer most has little left elsewhere.
    assert cuts[1] > 1.2 * cuts[0]


def test_exactly_the_share_is_stitched_in(tmp_path: Path) -> None:
    base, _ = models(tmp_path, "BF16")
    checkpoints.write(tmp_path / "b", base)
    bm.merge(recipe(tmp_path, "localize_and_stitch", {"density": 0.1, "scope": "model"}), out=tmp_path / "out")
    merged = checkpoints.read(tmp_path / "out")
    changed = sum(int((merged[name].view(np.uint16) != base[name].view(np.uint16)).sum()) for name in SHAPES)
    assert changed == int(0.1 * sum(int(np.prod(shape)) for shape in SHAPES.values()))


@pytest.mark.parametrize(
    ("method", "balance"), [("task_arithmetic", "metagpt"), ("task_arithmetic", "nan"), ("linear", "nan")]
)
def test_weights_follow_from_norms(tmp_path: Path, method: str, balance: str) -> None:
    base, branches = models(tmp_path)
    result = bm.merge(recipe(tmp_path, method, {}, auto_weight=balance), out=tmp_path / "out")
    zeros = {name: np.zeros_like(tensor) for name, tensor in base.items()}
    brought = [flat(zeros if method == "linear" else base, one) for one in branches]
    norms = np.array([np.sqrt((one.astype(np.float64) ** 2).sum()) for one in brought])
    right = norms**2 if balance == "metagpt" else 1 / norms
    right /= right.sum()
    np.testing.assert_allclose(result.surveys[0]["weight"], right, rtol=1e-6)
    weights = [float(weight) for weight in result.surveys[0]["weight"]]
    same = recipe(tmp_path, method, {})
    for model, weight in zip(same["models"], weights, strict=True):
        model["parameters"] = {"weight": weight}
    bm.merge(same, out=tmp_path / "said")
    found, said = checkpoints.read(tmp_path / "out"), checkpoints.read(tmp_path / "said")
    assert all(found[name].tobytes() == said[name].tobytes() for name in SHAPES)


def test_inner_merges_are_asked_first(tmp_path: Path) -> None:
    models(tmp_path)
    inner = recipe(tmp_path, "ties", {"weight": 1.0, "density": 0.4, "scope": "model"})
    models_ = [{"model": inner}, {"model": str(tmp_path / "a")}]
    outer = {"merge_method": "task_arithmetic", "base_model": str(tmp_path / "base"), "models": models_}
    result = bm.merge({**outer, "auto_weight": "metagpt"}, out=tmp_path / "nested", threads=1)
    bm.merge(inner, out=tmp_path / "inner", dtype="float32")
    models_ = [{"model": str(tmp_path / "inner")}, {"model": str(tmp_path / "a")}]
    apart = bm.merge({**outer, "models": models_, "auto_weight": "metagpt"}, out=tmp_path / "apart", threads=3)
    assert [set(one) for one in result.surveys] == [{"cut"}, {"weight"}]
    assert result.surveys[1] == apart.surveys[0]
    nested, apart_ = checkpoints.read(tmp_path / "nested"), checkpoints.read(tmp_path / "apart")
    assert all(nested[name].tobytes() == apart_[name].tobytes() for name in SHAPES)


def test_in_memory_it_is_the_same(tmp_path: Path) -> None:
    base, branches = models(tmp_path)
    parameters: dict[str, Any] = {"density": 0.3, "scope": "model", "auto_weight": "metagpt"}
    bm.fuse(tmp_path / "a", tmp_path / "b", base=tmp_path / "base", method="ties", out=tmp_path / "out", **parameters)
    merged, files = (
        bm.fuse_tensors(branches, base=base, method="ties", **parameters),
        checkpoints.read(tmp_path / "out"),
    )
    assert all(merged[name].tobytes() == files[name].tobytes() for name in SHAPES)


@pytest.mark.parametrize(
    ("method", "keys", "message"),
    [
        ("ties", {"auto_weight": "inverse"}, "expected `nan` or `metagpt`"),
        ("ties", {"auto_weight": "nan", "parameters": {"weight": 0.5}}, "`weight` is said, and `auto_weight`"),
        ("linear", {"auto_weight": "metagpt"}, "there is no base"),
        ("model_stock", {"auto_weight": "nan"}, "`model_stock` has no `weight`"),
        ("ties", {"parameters": {"weight": 0.5, "scope": "layer"}}, "expected `tensor` or `model`"),
    ],
)
def test_what_is_said_wrong_is_told(tmp_path: Path, method: str, keys: dict[str, Any], message: str) -> None:
    models(tmp_path)
    said = {**recipe(tmp_path, method, {}), **keys}
    with pytest.raises(bm.RecipeError, match=message):
        bm.merge(said, out=tmp_path / "out")
