"""A real model through the whole chain: SmolLM2-135M-Instruct from its package, two branches of it from short
fine-tunings, the two fused by the built program, and every checkpoint's loss on held-out text of both domains.
The first run takes an hour on two cores; what is there already is not made again.

    real/bin/python bench/real_model.py work/real --branchmerge .venv/bin/branchmerge

Runs in an environment of its own (README.md), in which branchmerge is not installed.
"""

import argparse
import subprocess
from pathlib import Path

import torch
from real import smollm2
from real.finetune import finetune
from real.losses import losses
from real.texts import DOMAINS
from transformers.utils import logging

STEPS, RATE = 200, 5e-5
FUSIONS = {  # result: what is written after `fuse`; a name that is a checkpoint becomes its path
    "arcee": "code math --method arcee",
    "linear": "code math --method linear -p weight=0.5",
    "ties": "code math --base base --method ties -p weight=0.5 -p density=0.5",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="for the checkpoints")
    parser.add_argument("--branchmerge", help="the program; without it only the parents are made and told of")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    logging.disable_progress_bar()
    asked.directory.mkdir(parents=True, exist_ok=True)

    domains = {name: make() for name, make in DOMAINS.items()}
    base = asked.directory / "base"
    if not (base / "model.safetensors").exists():
        smollm2.make(base)
    for name, domain in domains.items():
        if not (asked.directory / name).exists():
            finetune(base, domain.learnt, asked.directory / name, steps=STEPS, rate=RATE)
    if asked.branchmerge:
        for name, words in FUSIONS.items():
            fuse(asked.branchmerge, words, asked.directory, out=asked.directory / name)

    print("| checkpoint | " + " | ".join(domains) + " | mean |\n|" + " --- |" * (len(domains) + 2))
    spoken = []
    for name in ["base", *domains, *(FUSIONS if asked.branchmerge else [])]:
        loss, said = losses(asked.directory / name, domains)
        cells = [*loss.values(), sum(loss.values()) / len(loss)]
        print(f"| {name} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |", flush=True)
        spoken.append((name, said))
    for domain, samples in domains.items():
        print(f"\n{domain}: {samples.held_out[0].question}")
        for name, said in spoken:
            print(f"\n--- {name}\n{said[domain].strip()}")


def fuse(program: str, words: str, directory: Path, out: Path) -> None:
    """The same command again finds its result up to date."""
    names = {"base", *DOMAINS}
    command = [str(directory / word) if word in names else word for word in words.split()]
    subprocess.run([program, "fuse", *command, "-o", out], check=True)
    subprocess.run([program, "verify", out], check=True)


if __name__ == "__main__":
    main()
