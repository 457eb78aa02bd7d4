"""Merging in memory: the bits of the file merge for every method, and what cannot be lent is refused by name."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import branchmerge as bm
import checkpoints
import numpy as np
import pytest

METHODS = {name: method for name, method in bm.methods().items() if not method.grams}
"""Those that need files beside the branches are tried with them."""
USUAL: dict[str, Any] = {"weight": [0.6, 0.4], "density": 0.5, "t": 0.4}


def arguments(method: str) -> dict[str, Any]:
    """Values for what must be said of a method, and a density where it has one."""
    spec = METHODS[method]
    found = {name: value for name, value in USUAL.items() if name in spec.parameters}
    if spec.branches[1] == 1 and "weight" in found:
        found["weight"] = 0.6
    return found


def taken(method: str) -> list[str]:
    most = METHODS[method].branches[1]
    first = METHODS[method].base == "first"
    return ["a", "b", "c"][: 2 if most is None else most + first]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_the_same_bits_as_the_files(tmp_path: Path, method: str, dtype: str) -> None:
    names = taken(method)
    with_base = METHODS[method].base in {"required", "optional"}
    checkpoints.write(tmp_path / "base", checkpoints.weights(1, dtype=dtype))
    for seed, name in enumerate("abc", 2):
        checkpoints.write(tmp_path / name, checkpoints.weights(seed, of=1, dtype=dtype))
    tensors = {name: checkpoints.read(tmp_path / name) for name in [*names, "base"]}
    base: Any = str(tmp_path / "base") if with_base else None
    said = arguments(method)
    bm.fuse(*(str(tmp_path / name) for name in names), method=method, base=base, out=tmp_path / "out", **said)
    merged = bm.fuse_tensors(
        [tensors[name] for name in names], method=method, base=tensors["base"] if with_base else None, **said
    )
    stored = checkpoints.read(tmp_path / "out")
    assert list(merged) == list(tensors["base" if with_base else names[0]])
    for name, tensor in stored.items():
        assert merged[name].dtype == tensor.dtype
        np.testing.assert_array_equal(checkpoints.bits(merged[name]), checkpoints.bits(tensor))


def some(seed: int) -> dict[str, Any]:
    noise = np.random.default_rng(seed)
    return {
        "z.weight": noise.standard_normal((30, 17)).astype(np.float32),
        "a.weight": noise.standard_normal(9).astype(np.float16),
        "steps": np.array(3),
        "empty": np.empty((0, 4), np.float32),
    }


def test_the_order_is_the_base_s_and_inputs_stay() -> None:
    one, two = some(1), some(2)
    before = {name: tensor.copy() for name, tensor in one.items()}
    merged = bm.fuse_tensors([one, two], method="linear", weight=[0.5, 0.5])
    assert list(merged) == list(one)
    assert merged["steps"] == 3
    assert merged["empty"].shape == (0, 4)
    for name, tensor in one.items():
        np.testing.assert_array_equal(tensor, before[name])
        assert not np.shares_memory(tensor, merged[name])


def test_a_base_may_be_one_of_the_models() -> None:
    one, two = some(1), some(2)
    right = bm.fuse_tensors([one, two], method="slerp", t=1.0, base=two)
    np.testing.assert_array_equal(right["z.weight"], one["z.weight"])
    first = bm.fuse_tensors([one, two], method="slerp", t=0.0)
    np.testing.assert_array_equal(first["z.weight"], one["z.weight"])


def test_another_dtype() -> None:
    one, two = some(1), some(2)
    merged = bm.fuse_tensors([one, two], method="linear", weight=1.0, dtype="float64")
    assert merged["z.weight"].dtype == np.float64
    merged = bm.fuse_tensors([one, two], method="linear", weight=1.0, dtype="bf16")
    assert merged["z.weight"].dtype == checkpoints.DTYPES["BF16"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z.weight": np.zeros((30, 16), np.float32)}, "the shape differs"),
        ({"z.weight": np.zeros((17, 30), np.float32).T}, "not contiguous"),
        ({"z.weight": [1.0, 2.0]}, "expected a numpy array"),
        ({"z.weight": np.array(["a"])}, "none that safetensors knows"),
        ({"steps": np.array(4)}, "values do not merge"),
        ({"z.weight": np.full((30, 17), np.nan, np.float32)}, "NaN"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(bm.BranchmergeError, match=message) as raised:
        bm.fuse_tensors([some(1), some(2) | change], method="linear", weight=1.0)
    assert next(iter(change)) in str(raised.value)


def test_all_problems_at_once() -> None:
    lacking = some(2)
    del lacking["z.weight"], lacking["a.weight"]
    with pytest.raises(bm.RecipeError) as raised:
        bm.fuse_tensors([some(1), lacking], method="linear", weight=1.0)
    assert len(raised.value.problems) == 2
    with pytest.raises(bm.RecipeError, match="needs their base"):
        bm.fuse_tensors([some(1), some(2)], method="ties", weight=1.0)
    with pytest.raises(bm.RecipeError, match="unknown parameter"):
        bm.fuse_tensors([some(1), some(2)], method="linear", weigth=1.0)


def test_progress_is_told_and_what_it_raises_stops_the_merge() -> None:
    tensors = {f"{number}": np.ones((1 << 11, 1 << 11), np.float32) for number in range(40)}
    told: list[bm.Progress] = []
    bm.fuse_tensors([tensors, tensors.copy()], method="karcher", threads=1, progress=told.append)
    assert told
    assert all(one.tensors_total == 40 for one in told[1:])
    calls = threading.Event()

    def stop(_: bm.Progress) -> None:
        calls.set()
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        bm.fuse_tensors([tensors, tensors.copy()], method="karcher", threads=1, progress=stop)
    assert calls.is_set()


def test_torch_tensors() -> None:
    torch = pytest.importorskip("torch")
    one = {"w": torch.arange(12, dtype=torch.bfloat16).reshape(3, 4), "p": torch.nn.Parameter(torch.ones(2))}
    two = {"w": torch.zeros(3, 4, dtype=torch.bfloat16), "p": torch.zeros(2)}
    merged = bm.fuse_tensors([one, two], method="linear", weight=[0.5, 0.5])
    assert merged["w"].dtype == torch.bfloat16
    assert torch.equal(merged["w"], one["w"] / 2)
    assert torch.equal(merged["p"], torch.full((2,), 0.5))
    with pytest.raises(bm.RecipeError, match="not contiguous"):
        bm.fuse_tensors([one, two | {"w": two["w"].reshape(4, 3).T}], method="linear", weight=1.0)
