"""The private memory of a real run: within what its plan says, whatever the size of the model."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import checkpoints
import crashes
import program
import pytest
from crashes import OUT

pytestmark = crashes.linux
INTERPRETER = 96 << 20
"""What Python and its modules may add."""
ELEMENTS = 1 << 21
SMALLER = 8
"""Tensors of the smaller model; the larger has four times as many."""
METHODS = {
    "arcee": [],
    "slerp": ["-p", "t=0.4"],
    "ties": ["--base", "base", "-p", "weight=0.5", "-p", "density=0.5"],
}


def room(directory: Path, tensors: int) -> Path:
    """A directory with large checkpoints that take no room: zeros, in so many tensors."""
    directory.mkdir()
    for name in ("base", "a", "b"):
        checkpoints.write_large(directory / name, tensors=tensors, elements=ELEMENTS)
    return directory


def private(pid: int) -> int:
    """Bytes of memory that are the process's own and belong to no file; none once it is over."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (OSError, ValueError):
        return 0
    return sum(int(kilobytes) << 10 for kilobytes in re.findall(r"^Anonymous: +(\d+) kB", text, re.MULTILINE))


def peak(directory: Path, arguments: list[str]) -> tuple[int, dict[str, int]]:
    """The highest private memory that was seen of a run, and what it told itself."""
    running = crashes.Running(directory, arguments)
    seen = 0
    while not running.over():
        seen = max(seen, private(running.process.pid))
        time.sleep(0.002)
    result = running.end().result()
    return seen, result


@pytest.mark.parametrize("io", ["map", "read"])
@pytest.mark.parametrize("method", METHODS)
def test_the_peak_is_as_planned_and_does_not_grow_with_the_model(method: str, io: str, tmp_path: Path) -> None:
    arguments = ["fuse", "a", "b", "--method", method, *METHODS[method], "--io", io, "--threads", "2"]
    arguments += ["--json", "-o", OUT]
    peaks = []
    for times in (1, 4):
        directory = room(tmp_path / str(times), SMALLER * times)
        plan = json.loads(program.run(*arguments, "--dry-run", cwd=directory).stdout)
        seen, result = peak(directory, arguments)
        peaks.append(seen)
        assert seen <= plan["memory"]["private"] + INTERPRETER
        assert abs(seen - result["private_peak"]) < 16 << 20
    # A few kilobytes a tensor are names and figures.
    assert peaks[1] - peaks[0] < 8 << 20
    assert min(peaks) > 8 << 20, "nothing was measured"


@pytest.mark.parametrize("method", METHODS)
def test_a_bound_that_is_too_small_is_refused_with_what_is_needed(method: str, tmp_path: Path) -> None:
    directory = room(tmp_path / "room", 2)
    arguments = ["fuse", "a", "b", "--method", method, *METHODS[method], "-o", OUT]
    said = program.run(*arguments, "--memory", "1MiB", cwd=directory)
    assert said.returncode == 2
    needed = re.search(r"this merge needs (\d+)\n", said.stderr)
    assert needed is not None, said.stderr
    assert not (directory / OUT).exists()
    assert program.run(*arguments, "--memory", str(int(needed[1]) - 1), cwd=directory).returncode == 2
    assert program.run(*arguments, "--memory", needed[1], cwd=directory).returncode == 0
