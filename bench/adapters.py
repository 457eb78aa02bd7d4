"""A LoRA adapter merged into a model of real shape: branchmerge, peft, and a plain script over safetensors, in turn,
every run a process of its own. Prints medians as a Markdown table, and how often each rounds wrongly.

    .venv/bin/python bench/adapters.py work/lora --branchmerge .venv/bin/branchmerge --repeat 3
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median

from measure import Measured, measure

MIB = 1 << 20
# Llama 3.2 1B: 1.24 billion parameters, tied head.
SHAPE = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
    "tie_word_embeddings": True,
}
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RANK, ALPHA = 16, 32

PEFT = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base, adapter, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out)
"""
# The shortest way that people write: the adapter's products added tensor by tensor, one file read and one written.
PLAIN = """
import json, sys
from pathlib import Path
from safetensors.torch import load_file, save_file
base, adapter, out = (Path(one) for one in sys.argv[1:])
said = json.loads((adapter / "adapter_config.json").read_text())
thin = load_file(adapter / "adapter_model.safetensors")
tensors = load_file(base / "model.safetensors")
for name, up in thin.items():
    if name.endswith("lora_B.weight"):
        down = thin[name.replace("lora_B", "lora_A")]
        weight = name.removeprefix("base_model.model.").replace(".lora_B", "")
        delta = up.float() @ down.float() * (said["lora_alpha"] / said["r"])
        tensors[weight] = (tensors[weight].float() + delta).to(tensors[weight].dtype)
out.mkdir()
save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
"""


def make(root: Path) -> None:
    """A model with random weights and an adapter on all its projections."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE))
    model.save_pretrained(root / "base", max_shard_size="100GB")
    adapted = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=PROJECTIONS))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.01)
    adapted.save_pretrained(root / "adapter")


def commands(root: Path, branchmerge: str) -> dict[str, list[str]]:
    recipe, base, adapter = root / "recipe.yml", root / "base", root / "adapter"
    said = {"merge_method": "passthrough", "models": [{"model": f"{base}+{adapter}"}]}
    recipe.write_text(json.dumps(said))  # JSON is YAML
    script = [sys.executable, "-W", "ignore", "-c"]
    return {
        "branchmerge": [branchmerge, "merge", str(recipe), "OUT", "--threads", "2", "--quiet"],
        "peft": [*script, PEFT, str(base), str(adapter), "OUT"],
        "plain script": [*script, PLAIN, str(base), str(adapter), "OUT"],
    }


def run(command: list[str], out: Path) -> Measured:
    shutil.rmtree(out, ignore_errors=True)
    subprocess.run(["sync"], check=True)
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2", "TRANSFORMERS_VERBOSITY": "error"}
    return measure([part.replace("OUT", str(out)) if part == "OUT" else part for part in command], offline)


def wrong(root: Path, out: Path) -> float:
    """The share of a layer's elements that are not the double-precision result rounded once."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file

    thin = load_file(root / "adapter" / "adapter_model.safetensors")
    different = count = 0
    with (
        safe_open(root / "base" / "model.safetensors", "pt") as base,
        safe_open(out / "model.safetensors", "pt") as made,
    ):
        for name, up in thin.items():
            if ".layers.0." in name and name.endswith("lora_B.weight"):
                weight = name.removeprefix("base_model.model.").replace(".lora_B", "")
                delta = up.double() @ thin[name.replace("lora_B", "lora_A")].double() * (ALPHA / RANK)
                exact = (base.get_tensor(weight).double() + delta).to(torch.bfloat16)
                different += (exact != made.get_tensor(weight)).sum().item()
                count += exact.numel()
    return different / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--branchmerge", required=True)
    parser.add_argument("--repeat", type=int, default=3)
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    if not (asked.work / "adapter").is_dir():
        make(asked.work)
    programs = commands(asked.work, str(Path(asked.branchmerge).resolve()))
    runs: dict[str, list[Measured]] = {name: [] for name in programs}
    for _ in range(asked.repeat):
        for name, command in programs.items():
            runs[name].append(run(command, asked.work / name.replace(" ", "-")))
    ours = median(one.wall for one in runs["branchmerge"])
    print("| program | wall s (range) | CPU s | private MiB | wall / branchmerge | rounded wrongly |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, found in runs.items():
        walls = [one.wall for one in found]
        cells = [
            name,
            f"{median(walls):.2f} ({min(walls):.2f}-{max(walls):.2f})",
            f"{median(one.cpu for one in found):.1f}",
            f"{max(one.private for one in found) / MIB:.0f}",
            f"{median(walls) / ours:.1f}",
            f"{wrong(asked.work, asked.work / name.replace(' ', '-')):.2%}",
        ]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
