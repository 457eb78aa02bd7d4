"""Tiny checkpoints for tests, written with numpy and json alone, so that the product's own reader is not trusted."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]
DTYPES: dict[str, DTypeLike] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
SHAPES = {
    "model.embed_tokens.weight": (37, 24),
    "model.layers.0.input_layernorm.weight": (24,),
    "model.layers.0.mlp.up_proj.weight": (65, 24),
    "model.layers.1.mlp.up_proj.weight": (65, 24),
    "model.norm.weight": (24,),
    "lm_head.weight": (37, 24),
}


def weights(
    seed: int,
    *,
    dtype: str = "BF16",
    of: int | None = None,
    scale: float = 2e-3,
    shapes: Mapping[str, tuple[int, ...]] = SHAPES,
) -> dict[str, Array]:
    """Random tensors of seed `seed`; with `of`, those of the base of that seed and a delta of `scale` on top."""
    random = np.random.default_rng(seed)
    base = np.random.default_rng(seed if of is None else of)
    found = {}
    for name, shape in shapes.items():
        values = base.normal(0.0, 0.02, shape)
        if of is not None:
            values = values + random.normal(0.0, scale, shape)
        found[name] = values.astype(DTYPES[dtype])
    return found


def write(
    directory: Path, tensors: Mapping[str, Array], *, config: dict[str, Any] | None = None, shards: int = 1
) -> Path:
    """A checkpoint of `tensors`, in one file or several with their index."""
    directory.mkdir(parents=True, exist_ok=True)
    names = list(tensors)
    if shards == 1:
        write_file(directory / "model.safetensors", tensors)
    else:
        index: dict[str, str] = {}
        for shard in range(shards):
            file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
            part = names[shard::shards]
            write_file(directory / file, {name: tensors[name] for name in part})
            index |= dict.fromkeys(part, file)
        total = sum(tensor.nbytes for tensor in tensors.values())
        body = {"metadata": {"total_size": total}, "weight_map": index}
        (directory / "model.safetensors.index.json").write_text(json.dumps(body))
    first = NAMES[next(iter(tensors.values())).dtype]
    stored = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}.get(first, "bfloat16")
    said = config or {"model_type": "llama", "tie_word_embeddings": False, "torch_dtype": stored, "vocab_size": 37}
    (directory / "config.json").write_text(json.dumps(said, indent=2) + "\n")
    return directory


def write_file(path: Path, tensors: Mapping[str, Array]) -> None:
    """One safetensors file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.nbytes
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor).tobytes())


def write_large(directory: Path, *, tensors: int, elements: int) -> Path:
    """A bfloat16 checkpoint of zeros that takes no room on the disk: for runs that last long enough to be stopped."""
    directory.mkdir()
    size = 2 * elements
    header = {
        f"model.layers.{number}.weight": {
            "dtype": "BF16",
            "shape": [elements // 1024, 1024],
            "data_offsets": [number * size, (number + 1) * size],
        }
        for number in range(tensors)
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (directory / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + tensors * size)
    (directory / "config.json").write_text('{"model_type": "llama", "torch_dtype": "bfloat16"}\n')
    return directory


def read(directory: Path) -> dict[str, Array]:
    """All tensors of a checkpoint."""
    found: dict[str, Array] = {}
    for path in sorted(directory.glob("*.safetensors")):
        data = path.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        for name, entry in json.loads(data[8 : 8 + length]).items():
            if name != "__metadata__":
                first, last = (8 + length + offset for offset in entry["data_offsets"])
                flat = np.frombuffer(data[first:last], dtype=np.dtype(DTYPES[entry["dtype"]]))
                found[name] = flat.reshape(entry["shape"])
    return found


def bits(array: Array) -> Array:
    """The bytes of an array, for comparisons that know no NaN and no minus zero."""
    return np.frombuffer(np.ascontiguousarray(array).tobytes(), dtype=np.uint8)
