"""Methods of directions, ranks and counts against numpy in f64, through the built package.

Written from the papers and mergekit's formulas (with `floor: 1e-6` for sce), not from the engine's own oracles.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_oracle import Real, Tensors, assert_right, each_dtype, make, merge, size_of

MORE = 4.0
"""Σ|w·x| of these methods is at most this often that of the mean."""


def inputs(tensors: list[Tensors], name: str) -> tuple[Real, list[Real], list[Real]]:
    base, *branches = (one[name] for one in tensors)
    return base, branches, [x - base for x in branches]


def unit(x: Real) -> Real:
    norm = np.linalg.norm(x)
    return x / norm if norm > 0 else x


def slerp(t: float, one: Real, two: Real) -> Real:
    cosine = np.clip((unit(one) * unit(two)).sum(), -1, 1)
    angle = np.arccos(cosine)
    if np.sin(angle) < 1e-8:
        return (1 - t) * one + t * two
    found: Real = (np.sin((1 - t) * angle) * one + np.sin(t * angle) * two) / np.sin(angle)
    return found


@each_dtype
@pytest.mark.parametrize("based", [True, False])
@pytest.mark.parametrize("how", ["tensor", "row", "column", "flags"])
def test_nuslerp(tmp_path: Path, dtype: str, how: str, *, based: bool) -> None:
    tensors = make(tmp_path, dtype, branches=2, scale=2e-2)
    said: dict[str, Any] = {"angle": how}
    if how == "flags":
        said = {"nuslerp_flatten": False, "nuslerp_row_wise": True}
    base_name = "base" if based else None
    merged = merge(tmp_path, "nuslerp", ["0", "1"], base=base_name, weight=[0.6, 0.4], **said)
    for name, found in merged.items():
        base, branches, deltas = inputs(tensors, name)
        one, two = deltas if based else branches
        if how == "tensor":
            right = slerp(0.4, one, two)
        elif how == "row":
            rows = [x.reshape(-1, x.shape[-1]) for x in (one, two)]
            right = np.stack([slerp(0.4, a, b) for a, b in zip(*rows, strict=True)]).reshape(one.shape)
        else:
            columns = [x.reshape(x.shape[0], -1).T for x in (one, two)]
            right = np.stack([slerp(0.4, a, b) for a, b in zip(*columns, strict=True)]).T.reshape(one.shape)
        right = base + right if based else right
        assert_right(found, right[None], MORE * size_of([1, 1], base, branches), dtype, name)


@each_dtype
def test_multislerp_and_karcher(tmp_path: Path, dtype: str) -> None:
    tensors = make(tmp_path, dtype, branches=3, scale=2e-2)
    weight = np.array([0.5, 0.3, 0.4])
    multi = merge(tmp_path, "multislerp", ["0", "1", "2"], base="base", weight=list(weight))
    for name, found in multi.items():
        base, branches, deltas = inputs(tensors, name)
        shares = weight / weight.sum()
        mean = sum((w * unit(d) for w, d in zip(shares, deltas, strict=True)), np.zeros_like(base))
        length = sum(w * np.linalg.norm(d) for w, d in zip(shares, deltas, strict=True))
        right = base + unit(mean) * length
        if np.linalg.norm(mean) > 1e-6:
            assert_right(found, right[None], MORE * size_of([1, 1, 1], base, branches), dtype, name)
    mean_of = merge(tmp_path, "karcher", ["0", "1", "2"], tol=1e-12, max_iter=200)
    for name, found in mean_of.items():
        base, branches, _ = inputs(tensors, name)
        units = [unit(x) for x in branches]
        point = unit(sum(units, np.zeros_like(base)))
        # At the Karcher mean the ways to all directions cancel.
        ways = np.zeros_like(base)
        length = np.mean([np.linalg.norm(x) for x in branches])
        if min(np.linalg.norm(x) for x in branches) == 0:
            continue
        for _ in range(300):
            ways = np.zeros_like(base)
            for u in units:
                cosine = np.clip((u * point).sum(), -1, 1)
                rest = u - cosine * point
                if np.linalg.norm(rest) > 0:
                    ways = ways + np.arccos(cosine) * rest / np.linalg.norm(rest) / len(units)
            step = np.linalg.norm(ways)
            if step < 1e-13:
                break
            point = unit(np.cos(step) * point + np.sin(step) * ways / step)
        assert_right(found, (point * length)[None], MORE * size_of([1, 1, 1], base, branches), dtype, name)


@each_dtype
@pytest.mark.parametrize("filter_wise", [True, False])
@pytest.mark.parametrize("scale", [2e-5, 2e-2])
def test_model_stock(tmp_path: Path, dtype: str, scale: float, *, filter_wise: bool) -> None:
    tensors = make(tmp_path, dtype, branches=3, scale=scale)
    merged = merge(tmp_path, "model_stock", ["0", "1", "2"], base="base", filter_wise=filter_wise)
    for name, found in merged.items():
        base, branches, deltas = inputs(tensors, name)
        rows = [d.reshape(-1, d.shape[-1]) if filter_wise else d.reshape(1, -1) for d in deltas]
        cosines = [(a * b).sum(1) for i, a in enumerate(map(by_norm, rows)) for b in map(by_norm, rows[i + 1 :])]
        c = np.mean(cosines, axis=0)
        divisor = 1 + 2 * c
        t = np.where(np.abs(divisor) < 1e-6, 0, 3 * c / np.where(divisor == 0, 1, divisor))
        right = base + (t[:, None] * np.mean(rows, axis=0)).reshape(base.shape)
        if np.abs(divisor).min() > 1e-3:
            size = size_of([1, 1, 1], base, branches) * max(1.0, float(np.abs(t).max()))
            assert_right(found, right[None], size, dtype, name)


def by_norm(rows: Real) -> Real:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    found: Real = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return found


@each_dtype
@pytest.mark.parametrize("floor", [0.0, 1e-6])
def test_sce(tmp_path: Path, dtype: str, floor: float) -> None:
    tensors = make(tmp_path, dtype, branches=3)
    merged = merge(tmp_path, "sce", ["0", "1", "2"], base="base", floor=floor)
    for name, found in merged.items():
        base, branches, deltas = inputs(tensors, name)
        squares = np.array([np.mean(d**2) for d in deltas])
        weight = squares / squares.sum() if squares.sum() > floor else np.full(3, 1 / 3)
        rights = []
        total = sum(deltas, np.zeros_like(base))
        near = np.abs(total) <= 1e-6 * sum(np.abs(d) for d in deltas)
        for lost in (1.0, -1.0):
            sign = np.where(near, lost, np.where(total >= 0, 1.0, -1.0))
            kept = [w * (np.sign(d) == sign) for w, d in zip(weight, deltas, strict=True)]
            share = sum(kept, np.zeros_like(base))
            moved = sum((k * d for k, d in zip(kept, deltas, strict=True)), np.zeros_like(base))
            rights.append(base + moved / np.where(share == 0, 1, share))
        assert_right(found, np.stack(rights), MORE * size_of([1, 1, 1], base, branches), dtype, name)


@each_dtype
@pytest.mark.parametrize("method", ["ram", "ramplus_tl"])
def test_ram(tmp_path: Path, dtype: str, method: str) -> None:
    tensors = make(tmp_path, dtype, branches=3)
    merged = merge(tmp_path, method, ["0", "1", "2"], base="base", epsilon=2e-3)
    for name, found in merged.items():
        base, branches, deltas = inputs(tensors, name)
        active = [np.abs(d) > 2e-3 for d in deltas]
        count = sum(a.astype(int) for a in active)
        total = np.zeros_like(base)
        for delta, mine in zip(deltas, active, strict=True):
            shared, unique = (mine & (count > 1)).sum(), (mine & (count == 1)).sum()
            growth = 1 + 0.1 * min(shared / max(unique, 1e-5), 0.2) if method == "ramplus_tl" else 1.0
            total += np.where(mine, delta * np.where(count == 1, growth, 1 / np.maximum(count, 1)), 0)
        # In f32 a change may lie on either side of epsilon.
        near = np.any([np.abs(np.abs(d) - 2e-3) < 1e-8 for d in deltas], axis=0)
        size = size_of([1, 1, 1], base, branches)
        assert_right(np.where(near, base, found), np.where(near, base, base + total)[None], size, dtype, name)


@pytest.mark.parametrize("method", ["della_linear", "della"])
def test_della_keeps_by_rank(tmp_path: Path, method: str) -> None:
    """The law: kept with odds that grow with the rank from 0.1 to 0.7, each tensor and branch by itself."""
    shapes = {f"layers.{n}.weight": (64, 512) for n in range(2)}
    tensors = make(tmp_path, "F32", branches=2, shapes=shapes)
    said: dict[str, Any] = {"density": [0.4, 0.4], "epsilon": 0.3, "rescale": False}
    kept: dict[tuple[int, str], NDArray[np.bool_]] = {}
    for branch in range(2):
        weight = [float(branch == 0), float(branch == 1)]
        merged = merge(tmp_path, method, ["0", "1"], base="base", weight=weight, normalize=False, **said)
        for name, found in merged.items():
            base, _, deltas = inputs(tensors, name)
            kept[branch, name] = found != base
            ranks = np.abs(deltas[branch]).argsort(1).argsort(1)
            for low in range(0, 512, 64):
                here = (ranks >= low) & (ranks < low + 64)
                share, odds = kept[branch, name][here].mean(), 0.1 + 0.6 * (low + 31.5) / 511
                assert abs(share - odds) < 5 * np.sqrt(odds * (1 - odds) / here.sum()), (low, share, odds)
    # Masks that had to do with one another would agree more or less often than chance.
    first, *others = kept.values()
    for other in others:
        expected = first.mean() * other.mean() + (1 - first.mean()) * (1 - other.mean())
        assert abs((first == other).mean() - expected) < 0.03


def test_another_seed_is_another_mask(tmp_path: Path) -> None:
    import branchmerge as bm

    tensors = make(tmp_path, "F32", branches=1, shapes={"w.weight": (64, 256)})
    del tensors
    masks = []
    for seed in (0, 0, 1):
        out = tmp_path / "out"
        bm.fuse(
            tmp_path / "0", base=tmp_path / "base", method="della", weight=1.0, density=0.5, seed=seed, out=out,
            overwrite=True,
        )  # fmt: skip
        masks.append((out / "model.safetensors").read_bytes())
    assert masks[0] == masks[1] != masks[2]
