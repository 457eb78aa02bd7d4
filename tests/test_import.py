"""Importing the package is quick and brings nothing heavy; so is every page of help."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable

import program
import pytest

NETWORK = {"asyncio", "httpx", "httpx2", "huggingface_hub", "socket", "ssl"}
HEAVY = {"numpy", "torch", "transformers", "click", "rich", "rich_click", "yaml", "logging"} | NETWORK


def modules_after(statement: str) -> set[str]:
    listing = "json.dump(sorted(set(sys.modules) - before), sys.stderr)"
    script = f"import sys, json; before = set(sys.modules); {statement}; {listing}"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in json.loads(said.stderr)}


def processor_seconds(call: Callable[[], object]) -> float:
    """What a call's child processes computed, the least of a few calls: the machine may be busy with other things."""

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    times = []
    for _ in range(5):
        before = spent()
        call()
        times.append(spent() - before)
    return min(times)


def test_import_is_light() -> None:
    assert not modules_after("import branchmerge") & HEAVY


def test_import_is_quick() -> None:
    script = "import time; start = time.process_time(); import branchmerge; print(time.process_time() - start)"
    command = [sys.executable, "-c", script]
    times = [float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(5)]
    assert min(times) < 0.1


@pytest.mark.parametrize("arguments", [("--help",), ("fuse", "--help"), ("methods",)])
def test_help_is_quick(arguments: tuple[str, ...]) -> None:
    assert processor_seconds(lambda: program.run(*arguments)) < 0.4


def test_help_brings_nothing_heavy() -> None:
    brought = modules_after("from branchmerge.cli import main; main(['--help'])")
    assert not brought & {"numpy", "torch", "transformers", "yaml", "huggingface_hub", "httpx", "httpx2"}
