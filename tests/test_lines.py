"""`lines`: the merged change scaled over the layers, with any method that has a base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import branchmerge as bm
import checkpoints
import numpy as np
import pytest

SHAPES = {"embed.weight": (8, 16), "norm.weight": (16,)} | {f"model.layers.{n}.weight": (16, 16) for n in range(4)}
FACTORS = {"model.layers.0.weight": 0.5, "model.layers.1.weight": 1.0, "model.layers.2.weight": 1.5}


def merged(directory: Path, **keys: Any) -> dict[str, Any]:
    checkpoints.write(directory / "base", checkpoints.weights(1, dtype="F32", shapes=SHAPES))
    checkpoints.write(directory / "a", checkpoints.weights(2, of=1, dtype="F32", scale=0.01, shapes=SHAPES))
    recipe = {"base_model": str(directory / "base"), "models": [{"model": str(directory / "a")}], **keys}
    bm.merge(recipe, out=directory / "out", overwrite=True)
    return checkpoints.read(directory / "out")


@pytest.mark.parametrize("method", ["task_arithmetic", "arcee", "slerp"])
def test_the_change_grows_over_the_layers(tmp_path: Path, method: str) -> None:
    parameters = {"task_arithmetic": {"weight": 0.7}, "slerp": {"t": 0.3}}.get(method, {})
    plain = merged(tmp_path, merge_method=method, parameters=parameters)
    scaled = merged(tmp_path, merge_method=method, parameters=parameters, lines={"first": 0.5, "last": 2.0})
    base = checkpoints.read(tmp_path / "base")
    for name, tensor in plain.items():
        factor = FACTORS.get(name, 2.0 if name.startswith("model") else 1.0)
        right = base[name] + factor * (tensor.astype(np.float64) - base[name])
        np.testing.assert_allclose(scaled[name], right, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"merge_method": "arcee", "lines": {"first": 1.0}}, "first: 0.5, last: 1.5"),
        ({"merge_method": "arcee", "lines": 2}, "first: 0.5, last: 1.5"),
        ({"merge_method": "arcee", "line": {"first": 1, "last": 2}}, "unknown key `line`"),
    ],
)
def test_what_is_said_wrong_is_told(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(bm.RecipeError, match=message):
        merged(tmp_path, **keys)


def test_a_merge_without_a_base_changes_none(tmp_path: Path) -> None:
    for seed, name in enumerate("ab", 2):
        checkpoints.write(tmp_path / name, checkpoints.weights(seed, shapes=SHAPES))
    models = [{"model": str(tmp_path / name), "parameters": {"weight": 1.0}} for name in "ab"]
    with pytest.raises(bm.RecipeError, match="this merge has none"):
        bm.merge({"merge_method": "linear", "models": models, "lines": {"first": 1, "last": 2}}, out=tmp_path / "out")
