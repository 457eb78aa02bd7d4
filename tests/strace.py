"""Runs the installed program under strace, which ends it at a chosen system call or makes that call fail.

Only calls on the paths of the output and its parent are counted, so that the calls of the interpreter's start, which
differ between machines, are not: `openat`, third time is the third that the engine makes.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import program
import pytest
from crashes import JOURNAL, OUT, PARTIAL

CHANGING = (
    "openat", "mkdirat", "unlinkat", "renameat", "renameat2", "write", "pwrite64", "fallocate", "ftruncate", "fsync",
    "fdatasync", "fchmod",
)  # fmt: skip
"""The calls by which the engine changes files."""


ENVIRONMENT = {**program.ENVIRONMENT, "PYTHONDONTWRITEBYTECODE": "1"}


@functools.cache
def lacking() -> str | None:
    """Why strace cannot be used here; nothing where it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run(
        ["strace", "-f", "-e", "inject=exit_group:signal=KILL", "true"], capture_output=True, text=True, check=False
    )
    return None if tried.returncode == -9 else f"strace may not trace here: {tried.stderr.strip()[-200:]}"


needed = pytest.mark.skipif(lacking() is not None, reason=str(lacking()))


def run(
    directory: Path,
    arguments: Sequence[str],
    inject: Iterable[str],
    *,
    beside: Iterable[str] = (),
    outputs: bool = True,
    traced: Iterable[str] = (),
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run the program in `directory`, which is also the parent of its output; the lines of the trace come too.

    `inject` is what strace calls so, as `pwrite64:signal=KILL:when=3`. `beside` names further paths whose calls count,
    alone unless `outputs`; without any path all calls of the process do.
    """
    rules = list(inject)
    calls = {rule.partition(":")[0] for rule in rules} | set(traced)
    with tempfile.NamedTemporaryFile() as log:
        named = [*(paths(directory) if outputs else ()), *beside]
        said = subprocess.run(
            [*command(log.name, calls, rules, named), program.PROGRAM, *arguments],
            cwd=directory,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        return said, Path(log.name).read_text(errors="replace").splitlines()


def command(log: str, calls: Iterable[str], rules: Iterable[str], named: Iterable[str] = ()) -> list[str]:
    """The start of a command line: strace with these rules, told of these calls on these paths."""
    said = ["strace", "-f", "-q", "-e", "signal=none", "-o", log, "-e", f"trace={','.join(sorted(calls))}"]
    for rule in rules:
        said += ["-e", f"inject={rule}"]
    for path in named:
        said += ["-P", path]
    return said


def paths(directory: Path) -> list[str]:
    """The paths on which the engine works when it writes its output there."""
    partial = directory / PARTIAL
    names = [JOURNAL, f"{JOURNAL}.new", "branchmerge.json", "README.md", "config.json"]
    names += ["model.safetensors", "model.safetensors.index.json"]
    names += [f"model-{shard:05}-of-00003.safetensors" for shard in (1, 2, 3)]
    found = [directory, directory / OUT, partial, directory / f"{PARTIAL}.journal"]
    return [str(path) for path in [*found, *(partial / name for name in names)]]


def calls(
    directory: Path,
    arguments: Sequence[str],
    names: Iterable[str],
    *,
    inject: Sequence[str] = (),
    beside: Iterable[str] = (),
    outputs: bool = True,
) -> list[str]:
    """The calls of these names that one run of the program makes, in order, as `name:number` within their thread."""
    said, lines = run(directory, arguments, inject, beside=beside, outputs=outputs, traced=names)
    assert said.returncode == 0, said.stderr
    count: Counter[tuple[str, str]] = Counter()
    made = []
    for line in lines:
        found = re.match(r"(\d+) +(\w+)\(", line)
        if found and found[2] in names:
            count[found[1], found[2]] += 1
            made.append(f"{found[2]}:{count[found[1], found[2]]}")
    return made
