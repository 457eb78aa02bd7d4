"""Files that say something of the branches: importances of elements, and Gram matrices of layers' inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import branchmerge as bm
import checkpoints
import numpy as np
import pytest
from checkpoints import Array

SHAPES = {
    "model.embed_tokens.weight": (30, 16),
    "model.layers.0.up_proj.weight": (24, 16),
    "model.layers.0.down_proj.weight": (16, 24),
    "model.norm.weight": (16,),
}
Tensors = dict[str, Array]


@pytest.fixture
def models(tmp_path: Path) -> tuple[Tensors, list[Tensors]]:
    base = checkpoints.weights(1, dtype="F32", shapes=SHAPES)
    branches = [checkpoints.weights(seed, of=1, dtype="F32", scale=0.01, shapes=SHAPES) for seed in (2, 3)]
    for name, tensors in zip(("base", "a", "b"), (base, *branches), strict=True):
        checkpoints.write(tmp_path / name, tensors)
    return base, branches


def importances(directory: Path) -> list[Tensors]:
    found = []
    for seed, name in enumerate("ab", 5):
        tensors = {key: one**2 for key, one in checkpoints.weights(seed, dtype="F32", shapes=SHAPES).items()}
        tensors["model.norm.weight"][:3] = 0
        checkpoints.write(directory / f"fisher-{name}", tensors)
        found.append(tensors)
    return found


def gram_files(directory: Path, *, texts: int = 200) -> list[Tensors]:
    found = []
    for seed, name in enumerate("ab", 5):
        random = np.random.default_rng(seed)
        inputs = {key: random.normal(0, 1, (texts, shape[-1])) for key, shape in SHAPES.items() if "proj" in key}
        tensors = {key: (rows.T @ rows).astype(np.float32) for key, rows in inputs.items()}
        tensors["model.norm.weight"] = random.uniform(0, 4, 16).astype(np.float32)
        checkpoints.write(directory / f"grams-{name}", tensors)
        found.append(tensors)
    return found


def beside(directory: Path, kind: str) -> list[Path]:
    return [directory / f"{kind}-{name}" / "model.safetensors" for name in "ab"]


def test_linear_becomes_the_fisher_mean(tmp_path: Path, models: tuple[Tensors, list[Tensors]]) -> None:
    fisher = importances(tmp_path)
    a, b = tmp_path / "a", tmp_path / "b"
    files = beside(tmp_path, "fisher")
    result = bm.fuse(a, b, method="linear", weight=[0.7, 0.3], importance=files, out=tmp_path / "out")
    assert result.inputs == ("a", "model.safetensors", "b", "model.safetensors-2")
    merged = checkpoints.read(tmp_path / "out")
    for name in SHAPES:
        weights = [w * one[name].astype(np.float64) for w, one in zip((0.7, 0.3), fisher, strict=True)]
        weights = [np.where(sum(weights) > 0, own, w) for own, w in zip(weights, (0.7, 0.3), strict=True)]
        right = sum(w * one[name] for w, one in zip(weights, models[1], strict=True)) / sum(weights)
        np.testing.assert_allclose(merged[name], right, rtol=1e-5, atol=1e-7)
    assert bm.verify(tmp_path / "out").ok


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "della", "sce"])
def test_equal_importances_change_nothing(models: tuple[Tensors, list[Tensors]], method: str) -> None:
    base, branches = models
    needs_weight = method in {"task_arithmetic", "ties", "della"}
    parameters: dict[str, Any] = {"weight": [0.7, 0.3]} if needs_weight else {}
    ones = [{name: np.full_like(tensor, 3.0) for name, tensor in base.items()}] * 2
    plain = bm.fuse_tensors(branches, base=base, method=method, **parameters)
    weighed = bm.fuse_tensors(branches, base=base, method=method, importance=ones, **parameters)
    assert all(plain[name].tobytes() == weighed[name].tobytes() for name in SHAPES)


def test_deltas_are_weighed_before_they_are_cut(tmp_path: Path, models: tuple[Tensors, list[Tensors]]) -> None:
    base, branches = models
    fisher = importances(tmp_path)
    merged = bm.fuse_tensors(
        branches, base=base, method="ties", weight=1.0, density=0.4, importance=fisher, lambda_=0.9
    )
    for name in SHAPES:
        mean = sum(one[name].astype(np.float64) for one in fisher) / 2
        ratio = [np.where(mean > 0, one[name] / np.where(mean > 0, mean, 1), 1) for one in fisher]
        weighed = [
            (base[name] + r * (one[name].astype(np.float64) - base[name])).astype(np.float32)
            for r, one in zip(ratio, branches, strict=True)
        ]
        same = bm.fuse_tensors(
            [{name: one} for one in weighed],
            base={name: base[name]},
            method="ties",
            weight=1.0,
            density=0.4,
            lambda_=0.9,
        )
        np.testing.assert_allclose(merged[name], same[name], rtol=1e-4, atol=2e-6)


def test_regmean_and_lot_answer_like_the_branches(tmp_path: Path, models: tuple[Tensors, list[Tensors]]) -> None:
    base, branches = models
    grams = gram_files(tmp_path)
    files = beside(tmp_path, "grams")
    for method, off in (("regmean", 0.9), ("lot", 1.0)):
        bm.fuse(
            tmp_path / "a", tmp_path / "b", base=tmp_path / "base", method=method, grams=files, out=tmp_path / method
        )
        merged = checkpoints.read(tmp_path / method)
        for name, shape in SHAPES.items():
            deltas = [one[name].astype(np.float64) - base[name] for one in branches]
            right: Any
            if "proj" in name:
                scaled = [one[name] * (off + (1 - off) * np.eye(shape[1])) for one in grams]
                right = sum(d @ g for d, g in zip(deltas, scaled, strict=True)) @ np.linalg.inv(sum(scaled))
            elif method == "lot" and "norm" in name:
                right = sum(d * g[name] for d, g in zip(deltas, grams, strict=True)) / sum(g[name] for g in grams)
            else:
                right = sum(deltas) / 2
            np.testing.assert_allclose(merged[name], base[name] + right, rtol=1e-5, atol=1e-6)
    assert bm.verify(tmp_path / "lot").ok


def test_regmean_needs_no_base(tmp_path: Path, models: tuple[Tensors, list[Tensors]]) -> None:
    base, branches = models
    grams = gram_files(tmp_path)
    plain = bm.fuse_tensors(branches, method="regmean", grams=grams)
    based = bm.fuse_tensors(branches, base=base, method="regmean", grams=grams)
    for name in SHAPES:
        np.testing.assert_allclose(plain[name], based[name], rtol=1e-5, atol=1e-6)


def test_directions_that_no_branch_sees_stay(models: tuple[Tensors, list[Tensors]]) -> None:
    base, branches = models
    name = "model.layers.0.up_proj.weight"
    rows = np.random.default_rng(1).normal(0, 1, (5, 16)).astype(np.float64)
    gram = {name: (rows.T @ rows).astype(np.float64)}
    some = [{name: one[name].astype(np.float64)} for one in branches]
    merged = bm.fuse_tensors(some, base={name: base[name].astype(np.float64)}, method="lot", grams=[gram, gram])
    mean = sum(one[name] for one in some) / 2 - base[name]
    seen = np.linalg.pinv(rows) @ rows
    np.testing.assert_allclose(merged[name] - base[name], mean @ seen, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drop": "model.norm.weight"}, "its file lacks the tensor"),
        ({"shape": "model.norm.weight"}, "what its file says does not fit"),
    ],
)
def test_what_does_not_fit_is_told(
    tmp_path: Path, models: tuple[Tensors, list[Tensors]], change: dict[str, str], message: str
) -> None:
    base, branches = models
    fisher = importances(tmp_path)
    if "drop" in change:
        del fisher[1][change["drop"]]
    else:
        fisher[1][change["shape"]] = fisher[1][change["shape"]][:-1]
    with pytest.raises(bm.RecipeError, match=message):
        bm.fuse_tensors(branches, base=base, method="ties", weight=1.0, importance=fisher)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_importances_are_numbers_of_0_and_more(
    tmp_path: Path, models: tuple[Tensors, list[Tensors]], value: float
) -> None:
    base, branches = models
    fisher = importances(tmp_path)
    fisher[1]["model.embed_tokens.weight"][7, 3] = value
    with pytest.raises(bm.CheckpointError, match="element 115 is") as caught:
        bm.fuse_tensors(branches, base=base, method="task_arithmetic", weight=1.0, importance=fisher)
    assert caught.value.branch == "importance 1"


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"method": "regmean"}, "needs `grams` beside every model"),
        ({"method": "multislerp", "weight": 1.0, "importance": "fisher"}, "cannot weigh elements by `importance`"),
        ({"method": "task_arithmetic", "weight": 1.0, "grams": [{}, {}]}, "does nothing with `grams`"),
        ({"method": "linear", "auto_weight": "nan", "importance": "fisher"}, "`auto_weight` would find"),
        ({"method": "linear", "weight": 1.0, "importance": ["one"]}, "names 1 files, expected 2"),
    ],
)
def test_what_is_said_wrong_is_told(
    tmp_path: Path, models: tuple[Tensors, list[Tensors]], keywords: dict[str, Any], message: str
) -> None:
    base, branches = models
    said = dict(keywords)
    if "importance" in said:
        said["importance"] = importances(tmp_path)[: 1 if said["importance"] == ["one"] else 2]
    based = None if said["method"] in {"linear", "multislerp"} else base
    with pytest.raises(bm.RecipeError, match=message):
        bm.fuse_tensors(branches, base=based, **said)


def test_one_branch_alone_cannot_have_a_file(tmp_path: Path, models: tuple[Tensors, list[Tensors]]) -> None:
    del models
    importances(tmp_path)
    first = {"model": str(tmp_path / "a"), "importance": str(beside(tmp_path, "fisher")[0])}
    recipe = {"merge_method": "linear", "models": [first, {"model": str(tmp_path / "b")}], "parameters": {"weight": 1}}
    with pytest.raises(bm.RecipeError, match="of other models and not of this one"):
        bm.merge(recipe, out=tmp_path / "out")


def test_files_that_say_nothing_of_the_model_are_told(tmp_path: Path, models: tuple[Tensors, list[Tensors]]) -> None:
    base, branches = models
    grams = gram_files(tmp_path)
    others = [{f"language.{name}": one for name, one in tensors.items()} for tensors in grams]
    with pytest.raises(bm.RecipeError, match="none of its tensors is of any use here"):
        bm.fuse_tensors(branches, base=base, method="regmean", grams=others)
    more = [{**grams[0], "more": np.ones((3, 3), np.float32)}, grams[1]]
    with pytest.warns(UserWarning, match="1 tensors of `grams 0` are of no use here, such as `more`"):
        bm.fuse_tensors(branches, base=base, method="regmean", grams=more)
