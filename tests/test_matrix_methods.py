"""Matrix methods: one tensor a worker, the same bits for any number of threads, memory bounded, the processor named."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import branchmerge as bm
import checkpoints
import numpy as np
import pytest

METHODS = [name for name, method in bm.methods().items() if method.bits == "machine"]
MATRICES = {f"model.layers.{n}.mlp.up_proj.weight": (96, 160) for n in range(3)} | {
    "model.layers.0.mlp.down_proj.weight": (160, 96),
}
SHAPES = MATRICES | {
    "model.embed_tokens.weight": (300, 96),
    "model.norm.weight": (96,),
}


@pytest.fixture
def branches(tmp_path: Path) -> Path:
    checkpoints.write(tmp_path / "base", checkpoints.weights(1, dtype="BF16", shapes=SHAPES))
    for seed, name in enumerate("ab", 2):
        checkpoints.write(tmp_path / name, checkpoints.weights(seed, of=1, dtype="BF16", shapes=SHAPES))
        inputs = checkpoints.weights(seed, dtype="F32", shapes={n: (400, shape[-1]) for n, shape in MATRICES.items()})
        checkpoints.write(tmp_path / f"grams-{name}", {key: rows.T @ rows for key, rows in inputs.items()})
    return tmp_path


def fuse(directory: Path, method: str, out: str, threads: int, memory: str | None = None) -> bm.Result:
    models = [directory / name for name in "ab"]
    said: dict[str, Any] = {"threads": threads, "memory": memory, "out": directory / out}
    if bm.methods()[method].grams:
        said["grams"] = [directory / f"grams-{name}" for name in "ab"]
    return bm.fuse(*models, base=directory / "base", method=method, **said)


def test_there_are_some() -> None:
    assert METHODS == ["iso_c", "tsv_m", "swudi", "resmerge", "knots", "core_space", "regmean", "lot"]


@pytest.mark.parametrize("method", METHODS)
def test_the_same_bits_for_any_number_of_threads(branches: Path, method: str) -> None:
    weights = []
    for threads in (1, 2, 7):
        fuse(branches, method, f"out{threads}", threads)
        weights.append((branches / f"out{threads}" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] == weights[2]
    assert bm.verify(branches / "out7").ok
    recipe = json.loads((branches / "out1" / "branchmerge.json").read_text())["recipe"]
    assert recipe["machine"].startswith(platform.machine())


@pytest.mark.parametrize("method", METHODS)
def test_embeddings_and_norms_get_the_mean_delta(branches: Path, method: str) -> None:
    fuse(branches, method, "out", 2)
    base, one, two, found = (checkpoints.read(branches / name) for name in ("base", "a", "b", "out"))
    share = 1.0 if method == "swudi" else 0.5
    for name in ("model.embed_tokens.weight", "model.norm.weight"):
        start = base[name].astype(np.float64)
        right = start + share * (one[name].astype(np.float64) + two[name].astype(np.float64) - 2 * start)
        np.testing.assert_allclose(found[name].astype(np.float64), right, rtol=2**-8)


def test_too_little_memory_is_refused_with_the_figure(tmp_path: Path) -> None:
    shapes = {"model.layers.0.mlp.up_proj.weight": (700, 900)}
    for seed, name in enumerate(("base", "a", "b"), 1):
        checkpoints.write(tmp_path / name, checkpoints.weights(seed, shapes=shapes))
    with pytest.raises(bm.RecipeError, match="memory"):
        fuse(tmp_path, "swudi", "out", 1, memory="40MB")
    told = bm.plan(
        {
            "merge_method": "swudi",
            "base_model": str(tmp_path / "base"),
            "models": [{"model": str(tmp_path / name)} for name in "ab"],
        }
    )
    # Five squares of the columns and two matrices of the tensor's shape, in f64.
    assert told.memory["private"] > 5 * 900 * 900 * 8
