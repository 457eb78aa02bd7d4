"""All eight methods against f64 oracles, over f32, bf16 and f16.

A result is right within half an ulp of the output dtype and 8 roundings of Σ|w·x| in f32; near a cut either side is.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import branchmerge as bm
import checkpoints
import numpy as np
import oracles
import pytest
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Mapping

Real = NDArray[np.float64]
Tensors = dict[str, Real]

PRECISION = {"F32": (24, -126), "BF16": (8, -126), "F16": (11, -14)}
"""Bits of the significand, and the exponent below which numbers are subnormal."""
SHAPES = {
    "model.layers.0.mlp.up_proj.weight": (61, 130),
    "model.norm.weight": (129,),
    "one.weight": (1,),
    "x.weight": (3, 5, 7),
}

each_dtype = pytest.mark.parametrize("dtype", list(PRECISION))


def make(
    directory: Path, dtype: str, *, branches: int, scale: float = 2e-3, shapes: Mapping[str, tuple[int, ...]] = SHAPES
) -> list[Tensors]:
    """A base and its branches on the disk, `base`, `0`, `1` …; their values in f64."""
    checkpoints.write(directory / "base", checkpoints.weights(1, dtype=dtype, shapes=shapes))
    for branch in range(branches):
        tensors = checkpoints.weights(branch + 2, of=1, dtype=dtype, scale=scale, shapes=shapes)
        checkpoints.write(directory / str(branch), tensors)
    return [values(directory / name) for name in ("base", *map(str, range(branches)))]


def values(directory: Path) -> Tensors:
    return {name: tensor.astype(np.float64) for name, tensor in checkpoints.read(directory).items()}


def merge(directory: Path, method: str, names: list[str], *, base: str | None = None, **parameters: Any) -> Tensors:
    """Merge with lists of values as one a model; the result in f64."""
    models: list[dict[str, Any]] = [{"model": str(directory / name), "parameters": {}} for name in names]
    shared: dict[str, Any] = {}
    for name, value in parameters.items():
        if isinstance(value, list):
            for model, one in zip(models, value, strict=True):
                model["parameters"][name] = one
        else:
            shared[name] = value
    recipe: dict[str, Any] = {"merge_method": method, "models": models, "parameters": shared}
    if base is not None:
        recipe["base_model"] = str(directory / base)
    out = directory / "out"
    bm.merge(recipe, out=out, overwrite=True)
    return values(out)


def assert_right(found: Real, admissible: Real, size: Real, dtype: str, name: str) -> None:
    """Every element agrees with one row of `admissible`; `size` is Σ|w·x|."""
    bits, smallest = PRECISION[dtype]
    largest = np.maximum(np.abs(admissible), np.abs(found)[None])
    exponent = np.floor(np.log2(np.maximum(largest, 2.0**smallest)))
    allowed = 0.5 * 2.0 ** (exponent - bits + 1) + 8 * 2.0**-24 * size[None]
    right = (np.abs(found[None] - admissible) <= allowed).any(axis=0)
    assert right.all(), f"{name}: {np.count_nonzero(~right)} of {right.size} elements, first {np.argwhere(~right)[0]}"


def size_of(weight: list[float], base: Real, branches: list[Real], scale: float = 1.0) -> Real:
    """Σ|w·x| of a method on deltas."""
    return np.abs(base) + abs(scale) * sum(
        (abs(w) * (np.abs(x) + np.abs(base)) for w, x in zip(weight, branches, strict=True)), np.zeros_like(base)
    )


@each_dtype
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("weight", [[0.5, 0.3, 1.0], [1.5, -0.7, 0.1]])
def test_linear(tmp_path: Path, dtype: str, weight: list[float], *, normalize: bool) -> None:
    tensors = make(tmp_path, dtype, branches=2)
    merged = merge(tmp_path, "linear", ["base", "0", "1"], weight=weight, normalize=normalize)
    for name, found in merged.items():
        inputs = [one[name] for one in tensors]
        size = sum((abs(w) * np.abs(x) for w, x in zip(weight, inputs, strict=True)), np.zeros_like(found))
        size = size / abs(sum(weight)) if normalize else size
        assert_right(found, oracles.linear(inputs, weight, normalize=normalize), size, dtype, name)


@each_dtype
@pytest.mark.parametrize("t", [0.0, 0.35, 1.0, 1.5])
@pytest.mark.parametrize("scale", [2e-5, 2e-2])
def test_slerp(tmp_path: Path, dtype: str, t: float, scale: float) -> None:
    base, other = make(tmp_path, dtype, branches=1, scale=scale)
    merged = merge(tmp_path, "slerp", ["base", "0"], base="base", t=t)
    for name, found in merged.items():
        size = 2 * (np.abs(base[name]) + np.abs(other[name])) * max(1.0, abs(t))
        assert_right(found, oracles.slerp(base[name], other[name], t), size, dtype, name)
        if t == 0.0:
            np.testing.assert_array_equal(found, base[name])


@each_dtype
@pytest.mark.parametrize("scale", [None, 1.0, -0.3])
def test_passthrough(tmp_path: Path, dtype: str, scale: float | None) -> None:
    base, only = make(tmp_path, dtype, branches=1)
    del base
    parameters: dict[str, Any] = {} if scale is None else {"scale": scale}
    merged = merge(tmp_path, "passthrough", ["0"], **parameters)
    for name, found in merged.items():
        assert_right(found, oracles.passthrough(only[name], scale), np.abs(only[name]), dtype, name)
        if scale in {None, 1.0}:
            np.testing.assert_array_equal(found, only[name])


@each_dtype
@pytest.mark.parametrize("how", [{}, {"normalize": True}, {"lambda": 0.3}, {"normalize": True, "lambda": -1.0}])
def test_task_arithmetic(tmp_path: Path, dtype: str, how: dict[str, Any]) -> None:
    base, *branches = make(tmp_path, dtype, branches=3)
    weight = [0.5, 0.3, 0.4]
    merged = merge(tmp_path, "task_arithmetic", ["0", "1", "2"], base="base", weight=weight, **how)
    for name, found in merged.items():
        inputs = [one[name] for one in branches]
        deltas = [[x - base[name]] for x in inputs]
        scale = how.get("lambda", 1.0)
        right = oracles.task_vectors(base[name], deltas, weight, normalize=how.get("normalize"), scale=scale)
        assert_right(found, right, size_of(weight, base[name], inputs, scale), dtype, name)


@each_dtype
@pytest.mark.parametrize("density", [[1.0, 1.0], [0.5, 0.2], [0.0, 0.7]])
@pytest.mark.parametrize("how", [{}, {"normalize": False, "lambda": 0.7}])
def test_ties(tmp_path: Path, dtype: str, density: list[float], how: dict[str, Any]) -> None:
    base, *branches = make(tmp_path, dtype, branches=2)
    weight = [0.6, 0.5]
    merged = merge(tmp_path, "ties", ["0", "1"], base="base", weight=weight, density=density, **how)
    for name, found in merged.items():
        inputs = [one[name] for one in branches]
        deltas = [oracles.top(x - base[name], d) for x, d in zip(inputs, density, strict=True)]
        scale = how.get("lambda", 1.0)
        right = oracles.task_vectors(
            base[name], deltas, weight, consensus=True, normalize=how.get("normalize", True), scale=scale
        )
        assert_right(found, right, 2 * size_of(weight, base[name], inputs, scale), dtype, name)


@each_dtype
def test_ties_keeps_as_many_as_the_density_says(tmp_path: Path, dtype: str) -> None:
    base, only = make(tmp_path, dtype, branches=1)
    merged = merge(tmp_path, "ties", ["0"], base="base", weight=[1.0], density=0.3)
    for name, found in merged.items():
        delta = only[name] - base[name]
        k = max(1, int(0.3 * delta.size))
        zeros = np.count_nonzero(np.sort(np.abs(delta), axis=None)[delta.size - k :] == 0)
        assert np.count_nonzero(found != base[name]) == k - zeros


@each_dtype
@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
@pytest.mark.parametrize("rescale", [True, False, "density"])
def test_dare(tmp_path: Path, dtype: str, method: str, rescale: Any) -> None:
    base, *branches = make(tmp_path, dtype, branches=2)
    names, density, weight = ["0", "1"], [0.6, 0.3], [0.7, 0.5]
    kept: list[dict[str, NDArray[np.bool_]]] = []
    for branch in range(2):
        # A branch alone shows its mask: what is kept is its own value, what is dropped is the base's.
        alone = merge(
            tmp_path,
            method,
            names,
            base="base",
            weight=[float(branch == 0), float(branch == 1)],
            density=density,
            rescale=False,
        )
        kept.append({name: alone[name] != base[name] for name in alone})
        for name, found in alone.items():
            changed = branches[branch][name] != base[name]
            right = np.where(kept[branch][name], branches[branch][name], base[name])
            assert_right(found, right[None], size_of([1.0], base[name], [right]), dtype, name)
            if changed.sum() > 1000:
                share = kept[branch][name].sum() / changed.sum()
                assert abs(share - density[branch]) < 5 * np.sqrt(density[branch] / changed.sum())
    assert any((kept[0][name] != kept[1][name]).any() for name in kept[0])
    merged = merge(tmp_path, method, names, base="base", weight=weight, density=density, rescale=rescale)
    for name, found in merged.items():
        inputs = [one[name] for one in branches]
        deltas, grown = [], 1.0
        for branch, x in enumerate(inputs):
            delta = x - base[name]
            masked = np.where(kept[branch][name], delta, 0.0)
            before, after = np.abs(delta).sum(), np.abs(masked).sum()
            factor = 1 / density[branch] if rescale == "density" else 1.0
            if rescale is True and min(before, after) >= 1e-7:
                factor = before / after
            grown = max(grown, factor)
            deltas.append([masked * factor])
        right = oracles.task_vectors(base[name], deltas, weight, consensus=method == "dare_ties")
        assert_right(found, right, grown * size_of(weight, base[name], inputs), dtype, name)


@each_dtype
@pytest.mark.parametrize("scale", [3e-5, 1e-3])
@pytest.mark.parametrize(
    "how",
    [
        {}, {"threshold": 0.5}, {"divergence": "tensor"}, {"quartiles": "changed"}, {"strict": True},
        {"difference": "signed", "divergence": "tensor"}, {"difference": "signed"},
    ],
)  # fmt: skip
def test_arcee(tmp_path: Path, dtype: str, scale: float, how: dict[str, Any]) -> None:
    base, other = make(tmp_path, dtype, branches=1, scale=scale)
    merged = merge(tmp_path, "arcee", ["base", "0"], base="base", **how)
    for name, found in merged.items():
        must, may = oracles.arcee(base[name], other[name], **how)
        taken, left = found == other[name], found == base[name]
        assert (taken | left).all(), name
        assert taken[must].all(), name
        assert left[~may].all(), name
        # Where one factor is shared by all, the cut may coincide with many stored values.
        opened = ((may ^ must) & (base[name] != other[name])).mean()
        assert how.get("divergence") == "tensor" or found.size < 1000 or opened < 0.02


ROWS = ([[0.10, -0.20, 0.30, 0.0], [0.05, 0.25, -0.15, 0.40]], [[0.12, -0.20, 0.10, 0.01], [0.05, 0.24, -0.15, 0.90]])


@pytest.mark.parametrize(
    ("base", "right", "expected", "how"),
    [
        (*ROWS, [[0.10, -0.20, 0.10, 0.0], [0.05, 0.25, -0.15, 0.90]], {}),
        (*ROWS, [[0.10, -0.20, 0.10, 0.0], [0.05, 0.25, -0.15, 0.90]], {"divergence": "tensor"}),
        ([1.0, 2.0, 3.0, 4.0], [1.0, 2.5, 3.0, 3.0], [1.0, 2.0, 3.0, 3.0], {}),
    ],
)
def test_arcee_as_published(tmp_path: Path, base: Any, right: Any, expected: Any, how: dict[str, Any]) -> None:
    """The worked example of the method's description, through the whole engine."""
    for name, rows in (("base", base), ("right", right)):
        checkpoints.write(tmp_path / name, {"x": np.array(rows, np.float32)})
    merged = merge(tmp_path, "arcee", ["base", "right"], base="base", **how)
    np.testing.assert_array_equal(merged["x"], np.array(expected, np.float32).astype(np.float64))


@pytest.mark.parametrize("method", ["linear", "slerp", "task_arithmetic", "ties", "dare_linear", "dare_ties", "arcee"])
def test_branches_equal_to_the_base_give_the_base(tmp_path: Path, method: str) -> None:
    make(tmp_path, "BF16", branches=1)
    checkpoints.write(tmp_path / "same", checkpoints.read(tmp_path / "base"))
    parameters: dict[str, Any] = {"slerp": {"t": 0.3}, "arcee": {}}.get(method, {"weight": 0.8})
    names = ["base", "same"] if method in {"linear", "slerp", "arcee"} else ["same"]
    merge(tmp_path, method, names, base=None if method == "linear" else "base", **parameters)
    ours, theirs = checkpoints.read(tmp_path / "out"), checkpoints.read(tmp_path / "base")
    for name, tensor in ours.items():
        np.testing.assert_array_equal(checkpoints.bits(tensor), checkpoints.bits(theirs[name]))


def test_mixed_dtypes_take_the_base_s(tmp_path: Path) -> None:
    make(tmp_path, "F32", branches=1)
    narrow = {
        name: tensor.astype(checkpoints.DTYPES["BF16"]) for name, tensor in checkpoints.read(tmp_path / "base").items()
    }
    checkpoints.write(tmp_path / "narrow", narrow)
    merged = merge(tmp_path, "task_arithmetic", ["0"], base="narrow", weight=0.5)
    stored = checkpoints.read(tmp_path / "out")
    start, other = values(tmp_path / "narrow"), values(tmp_path / "0")
    for name, found in merged.items():
        assert checkpoints.NAMES[stored[name].dtype] == "BF16"
        right = start[name] + 0.5 * (other[name] - start[name])
        assert_right(found, right[None], size_of([0.5], start[name], [other[name]]), "BF16", name)
