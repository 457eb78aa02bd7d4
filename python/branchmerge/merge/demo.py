"""Three small branches of one base, made on the spot: what `branchmerge demo` fuses and explains.

A Llama with real config and tokenizer files, 1.2 MB of bfloat16 each, weights drawn by seed. Every branch drifts a
little everywhere and moves a few weights far, as fine-tuning does. Standard library only, and quick: numbers are drawn
by looking 12 random bits up in a table of quantiles.
"""

from __future__ import annotations

import json
import math
import operator
import random
import struct
from array import array
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from branchmerge.errors import OutputExists
from branchmerge.merge import demo_tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

BRANCHES = ("code", "science", "math")
"""In the order of the TinyR1 release: code is the base of the last fusion, math goes in first."""
BASE = "base"
HIDDEN, INNER, LAYERS, HEADS, KEY_HEADS = 128, 352, 3, 4, 2
STEPS = 1 << 12
"""Entries of a table of quantiles."""
KINDS = (("embed", "embedding"), ("attn", "attention"), ("mlp", "feed-forward"), ("norm", "norms"))


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the elements of one kind of tensor came from."""

    kind: str
    elements: int
    taken: dict[str, int]
    """Elements that carry a branch's bits, by branch; what several share counts for the first."""


def make(directory: Path) -> list[Path]:
    """Write `base` and the three branches into `directory`, where they are not there yet; the branches' directories."""
    files = {name: _checkpoint(name) for name in (BASE, *BRANCHES)}
    for name, contents in files.items():
        for file, content in contents.items():
            _keep(directory / name / file, content)
    return [directory / name for name in BRANCHES]


def origins(result: Path, parents: Sequence[Path]) -> list[Origin]:
    """Of which parent each element of `result` has the bits, by kind of tensor."""
    merged = dict(_read(result))
    sources = {parent.name: dict(_read(parent)) for parent in parents}
    rows = {label: Origin(label, 0, dict.fromkeys(sources, 0)) for _, label in KINDS}
    for name, values in merged.items():
        label = next(label for part, label in KINDS if part in name)
        row = rows[label]
        left = list(range(len(values)))
        for parent, tensors in sources.items():
            other = tensors[name]
            stays = [e for e in left if values[e] != other[e]]
            row.taken[parent] += len(left) - len(stays)
            left = stays
        rows[label] = Origin(label, row.elements + len(values), row.taken)
    return list(rows.values())


def _checkpoint(name: str) -> dict[str, bytes]:
    vocabulary = demo_tokenizer.train()
    shapes = dict(_shapes(vocabulary.size))
    tensors = {tensor: _weights(name, tensor, shape) for tensor, shape in shapes.items()}
    return {
        "config.json": _json(_config(vocabulary.size)),
        "generation_config.json": _json({"bos_token_id": 0, "eos_token_id": 1, "do_sample": False}),
        "tokenizer.json": _json(vocabulary.file()),
        "tokenizer_config.json": _json(demo_tokenizer.CONFIG),
        "model.safetensors": _safetensors(tensors, shapes),
    }


def _shapes(vocabulary: int) -> Iterator[tuple[str, list[int]]]:
    yield "model.embed_tokens.weight", [vocabulary, HIDDEN]
    keys = HIDDEN // HEADS * KEY_HEADS
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        yield f"{prefix}input_layernorm.weight", [HIDDEN]
        for part, rows in (("q", HIDDEN), ("k", keys), ("v", keys), ("o", HIDDEN)):
            yield f"{prefix}self_attn.{part}_proj.weight", [rows, HIDDEN]
        yield f"{prefix}post_attention_layernorm.weight", [HIDDEN]
        yield f"{prefix}mlp.gate_proj.weight", [INNER, HIDDEN]
        yield f"{prefix}mlp.up_proj.weight", [INNER, HIDDEN]
        yield f"{prefix}mlp.down_proj.weight", [HIDDEN, INNER]
    yield "model.norm.weight", [HIDDEN]


def _weights(branch: str, tensor: str, shape: list[int]) -> bytes:
    """The tensor's bfloat16 bytes: the base's draw, and the branch's own on top of it."""
    count = math.prod(shape)
    values = list(map(_BASE_TABLE.__getitem__, _draw(f"{BASE} {tensor}", count)))
    if "norm" in tensor:
        values = [1.0 + value for value in values]
    if branch != BASE:
        deltas = map(_BRANCH_TABLE.__getitem__, _draw(f"{branch} {tensor}", count))
        values = list(map(operator.add, values, deltas))
    bits = memoryview(array("f", values)).cast("B").cast("I")
    # To nearest, ties to even: half of the last kept bit, and one more where that bit is odd.
    return array("H", [(b + 0x7FFF + (b >> 16 & 1)) >> 16 for b in bits]).tobytes()


def _draw(seed: str, count: int) -> Iterator[int]:
    """`count` random indices into a table."""
    numbers = array("H", random.Random(seed).randbytes(2 * count))  # noqa: S311 (a demo, not a secret)
    return (number >> 4 for number in numbers)


def _quantiles(sigma: float, count: int = STEPS) -> list[float]:
    normal = NormalDist(0.0, sigma)
    return [normal.inv_cdf((step + 0.5) / count) for step in range(count)]


_FAR = STEPS // 32
_BASE_TABLE = _quantiles(0.02)
_BRANCH_TABLE = _quantiles(3e-4, STEPS - _FAR) + _quantiles(6e-3, _FAR)


def _config(vocabulary: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "bos_token_id": 0,
        "eos_token_id": 1,
        "head_dim": HIDDEN // HEADS,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": INNER,
        "max_position_embeddings": 512,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": KEY_HEADS,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "vocab_size": vocabulary,
    }


def _safetensors(tensors: dict[str, bytes], shapes: dict[str, list[int]]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, data in tensors.items():
        header[name] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, *tensors.values()])


def _read(checkpoint: Path) -> Iterator[tuple[str, memoryview]]:
    """Names and bfloat16 bits of a checkpoint made here, or of a result of such."""
    data = (checkpoint / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if name != "__metadata__":
            first, last = (8 + length + offset for offset in entry["data_offsets"])
            yield name, memoryview(data)[first:last].cast("H")


def _keep(path: Path, content: bytes) -> None:
    """Write a file that is not there yet; one that is there must be the same."""
    if path.exists():
        if path.read_bytes() != content:
            hint = "name another directory: `branchmerge demo DIR`"
            raise OutputExists(f"`{path}` is there already and is something else", hint=hint, path=str(path))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_bytes(content)
    unfinished.replace(path)


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
