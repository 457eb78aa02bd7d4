"""Makes the checkpoints that merges.py merges: a base and two branches in bfloat16, with the tensors of a Llama of the
wanted size, or with very many very small ones. Values are seeded; a branch differs from its base as a fine-tuned one
does.

    python bench/make_checkpoints.py 500MB work/half
    python bench/make_checkpoints.py 2GB work/two
    python bench/make_checkpoints.py work/tiny --tensors 100000
"""

import argparse
import json
import re
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

BLOCK = 1 << 22  # elements drawn at once
WEIGHT_STD = 0.02
BRANCHES = {"base": 0.0, "one": 5e-4, "two": 1e-3}  # directory: std of its delta
UNITS = {"": 1, "MB": 10**6, "GB": 10**9, "MiB": 1 << 20, "GiB": 1 << 30}


class Llama(NamedTuple):
    hidden: int
    intermediate: int
    heads: int
    key_value_heads: int
    vocabulary: int
    layers: int

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes as transformers writes them, head tied, in the order of names."""
        narrow = self.hidden // self.heads * self.key_value_heads
        layer = {
            "input_layernorm": (self.hidden,),
            "mlp.down_proj": (self.hidden, self.intermediate),
            "mlp.gate_proj": (self.intermediate, self.hidden),
            "mlp.up_proj": (self.intermediate, self.hidden),
            "post_attention_layernorm": (self.hidden,),
            "self_attn.k_proj": (narrow, self.hidden),
            "self_attn.o_proj": (self.hidden, self.hidden),
            "self_attn.q_proj": (self.hidden, self.hidden),
            "self_attn.v_proj": (narrow, self.hidden),
        }
        layers = {
            f"model.layers.{index}.{name}.weight": shape
            for index in range(self.layers)
            for name, shape in layer.items()
        }
        outer = {"model.embed_tokens.weight": (self.vocabulary, self.hidden), "model.norm.weight": (self.hidden,)}
        return dict(sorted((outer | layers).items()))

    def bytes(self) -> int:
        return sum(2 * int(np.prod(shape)) for shape in self.tensors().values())

    def config(self) -> dict[str, object]:
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "dtype": "bfloat16",
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": 4096,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.key_value_heads,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": True,
            "vocab_size": self.vocabulary,
        }


def of_size(wanted: int) -> Llama:
    """As wide as models of that size are, with the number of layers that comes nearest."""
    hidden = next(width for limit, width in ((10**9, 1024), (8 * 10**9, 2048), (1 << 63, 4096)) if wanted < limit)
    flat = Llama(hidden, hidden * 11 // 4, hidden // 64, hidden // 256, 32000, layers=0)
    layer = flat._replace(layers=1).bytes() - flat.bytes()
    return flat._replace(layers=max(1, round((wanted - flat.bytes()) / layer)))


def of_tensors(wanted: int) -> Llama:
    """Matrices of a few hundred elements, nine a layer."""
    return Llama(16, 32, 4, 2, 256, layers=max(1, wanted // 9))


def write(model: Llama, directory: Path, seed: int) -> None:
    """All checkpoints at once, since a branch is drawn around its base; memory is a few blocks."""
    tensors = model.tensors()
    files: dict[str, BinaryIO] = {}
    for branch in BRANCHES:
        (directory / branch).mkdir(parents=True, exist_ok=True)
        (directory / branch / "config.json").write_text(json.dumps(model.config(), indent=2) + "\n")
        files[branch] = (directory / branch / "model.safetensors").open("wb", buffering=1 << 22)
        files[branch].write(header(tensors))
    for index, (name, shape) in enumerate(tensors.items()):
        draw = np.random.Generator(np.random.SFC64([seed, index]))
        mean = 1.0 if "norm" in name else 0.0
        left = int(np.prod(shape))
        while left:
            count = min(left, BLOCK)
            base = bfloat16(draw.standard_normal(count, np.float32) * np.float32(WEIGHT_STD) + np.float32(mean))
            for branch, std in BRANCHES.items():
                files[branch].write(moved(base, draw, std).tobytes())
            left -= count
    for file in files.values():
        file.close()


def header(tensors: dict[str, tuple[int, ...]]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors.items():
        start, end = end, end + 2 * int(np.prod(shape))
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def moved(base: np.ndarray, draw: np.random.Generator, std: float) -> np.ndarray:
    """Base plus a delta, rounded as a fine-tuned checkpoint is: small deltas on large weights vanish."""
    if not std:
        return base
    weights = (base.astype("<u4") << 16).view("<f4")
    return bfloat16(weights + draw.standard_normal(len(base), np.float32) * np.float32(std))


def bfloat16(weights: np.ndarray) -> np.ndarray:
    """The bits of the nearest bfloat16, ties to even; the weights are finite."""
    bits = np.ascontiguousarray(weights, dtype="<f4").view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def size(text: str) -> int:
    match = re.fullmatch(r"([\d.]+)\s*([A-Za-z]*)", text)
    if not match or match[2] not in UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 500MB or 2GB")
    return int(float(match[1]) * UNITS[match[2]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", type=size, nargs="?", help="bytes of each checkpoint")
    parser.add_argument("directory", type=Path, help="will hold base, one and two")
    parser.add_argument("--tensors", type=int, help="this many tiny tensors, instead of a size")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    if (asked.size is None) == (asked.tensors is None):
        parser.error("give either a size or --tensors")
    model = of_size(asked.size) if asked.size else of_tensors(asked.tensors)
    write(model, asked.directory, asked.seed)
    print(f"{asked.directory}: {model.bytes() / 1e6:.0f} MB and {len(model.tensors())} tensors a checkpoint")


if __name__ == "__main__":
    main()
