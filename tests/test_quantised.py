"""Checkpoints of 8-bit codes with scales are read as the numbers that they stand for; other codes are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import branchmerge as bm
import checkpoints
import ml_dtypes
import numpy as np
import pytest
from checkpoints import Array

E4M3, BF16 = ml_dtypes.float8_e4m3fn, ml_dtypes.bfloat16
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
UP, EXPERTS, NORM = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.experts.gate_up_proj", "model.norm.weight"


def blocks(values: Array, rows: int, columns: int) -> tuple[Array, Array]:
    """Codes and scales of a matrix, one scale a block, as such checkpoints are made."""
    scales = np.zeros((-(-values.shape[0] // rows), -(-values.shape[1] // columns)), np.float32)
    codes = np.zeros(values.shape, E4M3)
    for i, j in np.ndindex(scales.shape):
        part = np.s_[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]
        scales[i, j] = np.abs(values[part]).max() / 448
        codes[part] = (values[part] / scales[i, j]).astype(E4M3)
    return codes, scales


def spread(scales: Array, shape: tuple[int, int], rows: int, columns: int) -> Array:
    return np.repeat(np.repeat(scales, rows, axis=0), columns, axis=1)[: shape[0], : shape[1]]


def write(directory: Path, tensors: dict[str, Array], quantization: dict[str, Any] | None) -> None:
    config = {"a": [1], "quantization_config": quantization, "torch_dtype": "bfloat16"}
    checkpoints.write(directory, tensors, config=config if quantization else {"a": [1], "torch_dtype": "bfloat16"})


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def passed(model: str, **keys: Any) -> dict[str, Array]:
    bm.merge({"merge_method": "passthrough", "models": [{"model": model}], **keys}, out="out", overwrite=True)
    assert bm.verify("out").ok
    return checkpoints.read(Path("out"))


def values(shape: tuple[int, ...], seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(0, 0.02, shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(300, 200), (128, 128), (5, 3000), (576, 1)])
@pytest.mark.parametrize("dtype", [None, "float32"])
def test_scales_of_blocks(here: Path, shape: tuple[int, int], dtype: str | None) -> None:
    codes, scales = blocks(values(shape), 128, 128)
    norm = values((200,)).astype(BF16)
    write(here / "a", {UP: codes, f"{UP}_scale_inv": scales, NORM: norm}, FP8)
    merged = passed("a", **({"out_dtype": dtype} if dtype else {}))
    expected = codes.astype(np.float32) * spread(scales, shape, 128, 128)
    assert merged.keys() == {UP, NORM}
    kept = np.dtype(dtype or BF16)
    np.testing.assert_array_equal(checkpoints.bits(merged[UP]), checkpoints.bits(expected.astype(kept)))
    said = json.loads((here / "out/config.json").read_text())
    assert said == {"a": [1], "torch_dtype": dtype or "bfloat16"}


@pytest.mark.parametrize(
    ("scales", "spread_over"),
    [((), (300, 200)), ((1,), (300, 200)), ((300, 1), (1, 200)), ((300,), (1, 200)), ((10, 7), (32, 32))],
)
def test_scales_as_compressed_tensors_has_them(
    here: Path, scales: tuple[int, ...], spread_over: tuple[int, int]
) -> None:
    shape = (300, 200)
    codes, found = blocks(values(shape), *spread_over)
    groups = {"group_0": {"weights": {"num_bits": 8, "type": "float", "block_structure": [32, 32]}}}
    said = {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": groups}
    tensors = {
        UP: codes,
        f"{UP}_scale": found.reshape(scales).astype(BF16),
        f"{UP[:-7]}.input_scale": found.reshape(-1)[:1],
    }
    write(here / "a", tensors, said)
    merged = passed("a", out_dtype="float32")
    wide = spread(found.astype(BF16).astype(np.float32), shape, *spread_over)
    assert merged.keys() == {UP}
    np.testing.assert_array_equal(merged[UP], codes.astype(np.float32) * wide)


def test_experts_that_are_stored_together(here: Path) -> None:
    parts = [blocks(values((130, 260), seed), 128, 128) for seed in range(3)]
    codes, scales = (np.stack([part[at] for part in parts]) for at in (0, 1))
    write(here / "a", {EXPERTS: codes, f"{EXPERTS}_scale_inv": scales}, FP8)
    expected = [one.astype(np.float32) * spread(scale, (130, 260), 128, 128) for one, scale in parts]
    np.testing.assert_array_equal(passed("a", out_dtype="float32")[EXPERTS], np.stack(expected))


@pytest.mark.parametrize("method", ["linear", "ties", "arcee"])
@pytest.mark.parametrize("base_is_codes", [True, False])
def test_codes_merge_with_plain_weights(here: Path, method: str, *, base_is_codes: bool) -> None:
    """The bits of a merge of the same numbers, stored plainly."""
    codes, scales = blocks(values((300, 200)), 128, 128)
    plain = codes.astype(np.float32) * spread(scales, (300, 200), 128, 128)
    other = plain + values((300, 200), 1) / 10
    write(here / "codes", {UP: codes, f"{UP}_scale_inv": scales}, FP8)
    checkpoints.write(here / "plain", {UP: plain})
    checkpoints.write(here / "other", {UP: other})

    def merge(one: str, **run: Any) -> Array:
        base, branch = (one, "other") if base_is_codes else ("other", one)
        weight = {"parameters": {"weight": 0.5}} if method != "arcee" else {}
        listed = [{"model": branch, **weight}, *([{"model": base, **weight}] if method == "linear" else [])]
        said = {"merge_method": method, "models": listed, "out_dtype": "float32"}
        base_model = {"base_model": base} if method != "linear" else {}
        bm.merge({**said, **base_model}, out="out", overwrite=True, **run)
        return checkpoints.read(here / "out")[UP]

    expected = merge("plain")
    for run in ({"threads": 1, "io": "map"}, {"threads": 2, "io": "read"}):
        np.testing.assert_array_equal(merge("codes", **run), expected)


def test_codes_that_stand_for_themselves_merge_as_they_are(here: Path) -> None:
    codes = values((30, 20)).astype(E4M3)
    checkpoints.write(here / "a", {UP: codes})
    np.testing.assert_array_equal(checkpoints.bits(passed("a")[UP]), checkpoints.bits(codes))


@pytest.mark.parametrize(
    ("tensors", "said", "message"),
    [
        (
            {UP: np.zeros((300, 200), E4M3), f"{UP}_scale_inv": np.zeros((2, 2), np.float32)},
            FP8,
            "the scales are F32 [2, 2]",
        ),
        ({UP: np.zeros((300, 200), E4M3)}, FP8, "its 8-bit codes have no scales"),
        ({f"{UP}_packed": np.zeros((30, 20), np.int32)}, {"quant_method": "compressed-tensors"}, "are quantised"),
        ({f"{EXPERTS}_blocks": np.zeros((30, 20), np.uint8)}, {"quant_method": "mxfp4"}, "dequantize=True"),
        ({UP: np.zeros((30, 20), np.uint8)}, {"quant_method": "bitsandbytes"}, "model.dequantize()"),
    ],
)
def test_what_is_not_understood_is_told(
    here: Path, tensors: dict[str, Array], said: dict[str, Any], message: str
) -> None:
    write(here / "a", tensors, said)
    problems = bm.plan({"merge_method": "passthrough", "models": [{"model": "a"}]}).problems
    assert any(message in f"{problem} {problem.hint}" for problem in problems), problems


def test_plain_weights_under_a_stale_config_merge_with_a_word(here: Path) -> None:
    write(here / "a", {UP: values((30, 20)).astype(BF16)}, FP8)
    plan = bm.plan({"merge_method": "passthrough", "models": [{"model": "a"}]})
    assert any("which they are not" in warning for warning in plan.warnings)
    passed("a")
    assert "quantization_config" not in (here / "out/config.json").read_text()
