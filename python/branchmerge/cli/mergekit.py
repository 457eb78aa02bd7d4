"""The flags of `mergekit-yaml`: some act, of the others a line says why they are not needed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import rich_click as click

from branchmerge.cli import terminal
from branchmerge.errors import RecipeError, shown

if TYPE_CHECKING:
    from collections.abc import Callable

ACTING = {
    "--out-shard-size": "shard_size",
    "--random-seed": "seed",
    "--num-threads": "threads",
}
"""Flags that say the same as ours."""
NEEDLESS = {
    "--allow-crimes": "tensors are matched by name, whatever the architecture",
    "--async-write": "tensors are written by all workers as they are done",
    "--clone-tensors": "no two tensors share memory in a result",
    "--copy-tokenizer": "the tokenizer is always carried",
    "--cuda": "merges run on the CPU, where reading and writing is what takes the time",
    "--gpu-rich": "merges run on the CPU, where reading and writing is what takes the time",
    "--lazy-unpickle": "weights are safetensors, which are read piece by piece",
    "--low-cpu-memory": "memory is bounded by `--memory`",
    "--multi-gpu": "merges run on the CPU, where reading and writing is what takes the time",
    "--read-to-gpu": "merges run on the CPU, where reading and writing is what takes the time",
    "--safe-serialization": "results are always safetensors",
    "--trust-remote-code": "no code of a model is run",
    "--write-model-card": "a model card is always written",
}
NEEDLESS_VALUES = {
    "--device": "merges run on the CPU, where reading and writing is what takes the time",
    "--lora-merge-cache": "adapters are never merged on the disk",
    "--lora-merge-dtype": "sums are made in full precision",
    "--transformers-cache": "models of the hub are in its own cache, which `HF_HOME` moves",
    "--write-threads": "tensors are written by all workers as they are done",
}
REFUSED = {"--unsafe-truncate-embeddings": "`--allow shape=overlap` merges the rows that all have"}
SHARD = re.compile(r"([0-9]+)([KMB]?)")
SHARD_UNITS = {"": 1, "K": 1000, "M": 1000**2, "B": 1000**3}


def accepted(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command mergekit's flags, which its help does not show."""
    for flag in (*NEEDLESS, *REFUSED):
        command = click.option(f"{flag}/--no-{flag[2:]}", default=None, hidden=True)(command)
    for flag in NEEDLESS_VALUES:
        command = click.option(flag, hidden=True)(command)
    command = click.option("--out-shard-size", hidden=True)(command)
    command = click.option("--random-seed", type=int, hidden=True)(command)
    command = click.option("--num-threads", "-j", type=click.IntRange(1), hidden=True)(command)
    return click.option("-v", "verbosity", count=True, hidden=True)(command)


def understood(flags: dict[str, Any]) -> dict[str, Any]:
    """Our own flags, with what mergekit's say; each of mergekit's that does nothing is told."""
    said = {name: flags.pop(_name(name)) for name in (*ACTING, *NEEDLESS, *NEEDLESS_VALUES, *REFUSED)}
    flags["verbose"] = flags["verbose"] or bool(flags.pop("verbosity"))
    for flag, hint in REFUSED.items():
        if said[flag]:
            raise RecipeError(f"`{flag}` is not taken", hint=hint)
    for flag, own in ACTING.items():
        if said[flag] is None:
            continue
        if flags[own] is not None:
            raise RecipeError(f"`{flag}` and `--{own.replace('_', '-')}` say the same", hint="give one of them")
        flags[own] = _shard(said[flag]) if own == "shard_size" else said[flag]
    for flag, why in (NEEDLESS | NEEDLESS_VALUES).items():
        if said[flag] and not flags["quiet"]:
            terminal.note(f"note: `{flag}` is not needed: {why}")
    return flags


def _name(flag: str) -> str:
    return flag[2:].replace("-", "_")


def _shard(said: str) -> str:
    """A size as mergekit writes it: 5B are five thousand million bytes."""
    match = SHARD.fullmatch(said)
    if match is None:
        hint = "mergekit writes sizes 500M or 5B; ours is `--shard-size 5GB`"
        raise RecipeError(f"`--out-shard-size` is `{shown(said)}`, expected a size", hint=hint)
    return str(int(match[1]) * SHARD_UNITS[match[2]])
