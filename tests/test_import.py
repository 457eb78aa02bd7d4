"""Importing the package is quick and brings nothing heavy; so is every page of help."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable

import program
import pytest

HEAVY = {"numpy", "torch", "transformers", "click", "rich", "rich_click", "yaml", "asyncio", "socket", "ssl", "logging"}


def modules_after(statement: str) -> set[str]:
    listing = "json.dump(sorted(set(sys.modules) - before), sys.stderr)"
    script = f"import sys, json; before = set(sys.modules); {statement}; {listing}"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in json.loads(said.stderr)}


def quickest(call: Callable[[], object]) -> float:
    """Seconds of the quickest of a few calls: the machine may be busy."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def test_import_is_light() -> None:
    assert not modules_after("import branchmerge") & HEAVY


def test_import_is_quick() -> None:
    script = "import time; start = time.perf_counter(); import branchmerge; print(time.perf_counter() - start)"
    command = [sys.executable, "-c", script]
    times = [float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(5)]
    assert min(times) < 0.1


@pytest.mark.parametrize("arguments", [("--help",), ("fuse", "--help"), ("methods",)])
def test_help_is_quick(arguments: tuple[str, ...]) -> None:
    assert quickest(lambda: program.run(*arguments)) < 0.4 + 0.1  # the test's own process start


def test_help_brings_nothing_heavy() -> None:
    brought = modules_after("from branchmerge.cli import main; main(['--help'])")
    assert not brought & {"numpy", "torch", "transformers", "yaml"}
