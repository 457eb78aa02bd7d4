"""Runs killed at each system call by which they change files: the same command afterwards ends as if nothing had been.

The kill comes as the call is entered, so that the call is not made; what follows the last one is the run's end.
"""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import crashes
import pytest
import strace
from crashes import OUT, Case, check_finish, check_left

pytestmark = strace.needed
PARTS = 6
"""Tests among which the calls are divided, so that they run side by side."""
MOST_WRITES = 6
"""Writes of weights and lines of the journal at which a run is killed; there are many, and they are alike."""


def nothing(directory: Path) -> None:
    """The target is not there."""


def empty(directory: Path) -> None:
    """The target is an empty directory."""
    (directory / OUT).mkdir()


def older(directory: Path) -> None:
    """The target is an older result."""
    (directory / OUT / "inner").mkdir(parents=True)
    for name in ("precious", "inner/too"):
        (directory / OUT / name).write_text("an older result")


LACKING = ["renameat2:error=EINVAL"]
"""What a file system that knows no flags of renames answers."""
BEGINNINGS: dict[str, tuple[Callable[[Path], None], list[str], list[str]]] = {
    "nothing there": (nothing, [], []),
    "nothing there, no flags": (nothing, [], LACKING),
    "empty": (empty, [], []),
    "overwrite": (older, ["--overwrite"], []),
    "overwrite, no exchange": (older, ["--overwrite"], LACKING),
}


def points(directory: Path, arguments: Sequence[str], lacking: Sequence[str], *, whole: bool) -> list[str]:
    """The calls of a run as `name:number`, of the writes a sample; only the last steps' unless `whole`."""
    calls = [call for call in strace.CHANGING if not any(rule.startswith(f"{call}:") for rule in lacking)]
    made = strace.calls(directory, arguments, calls, inject=lacking)
    writes = [point for point in made if point.startswith("pwrite64:")]
    kept = set(random.Random(1).sample(writes, min(MOST_WRITES, len(writes)))) | {writes[0], writes[-1]}
    first = 0 if whole else made.index(writes[-1])
    return [point for point in made[first:] if point in kept or not point.startswith("pwrite64:")]


def kill(directory: Path, arguments: Sequence[str], point: str, lacking: Sequence[str]) -> None:
    """Run the program until it enters this call."""
    call, _, number = point.partition(":")
    said, _ = strace.run(directory, arguments, [*lacking, f"{call}:signal=KILL:when={number}"])
    assert said.returncode == -signal.SIGKILL, f"{point} was not reached"


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_kills_at_calls(beginning: str, part: int, tmp_path: Path, case: Case) -> None:
    prepare, options, lacking = BEGINNINGS[beginning]
    # With one thread the calls come in one order.
    arguments = [*case.arguments, "--threads", "1", *options]
    made = tmp_path / "made"
    made.mkdir()
    prepare(made)
    for point in points(made, arguments, lacking, whole=beginning == "nothing there")[part::PARTS]:
        directory = tmp_path / point.replace(":", "-")
        directory.mkdir()
        prepare(directory)
        before = [crashes.contents(directory / OUT)] if (directory / OUT).exists() else []
        kill(directory, arguments, point, lacking)
        check_left(directory, [*before, case.expected])
        # Where directories cannot change places there is a moment between the two renames; the next run knows.
        assert not before or lacking or (directory / OUT).exists()
        check_finish(directory, case, *options)
        shutil.rmtree(directory)


def test_kills_of_the_run_that_clears_up(tmp_path: Path, case: Case) -> None:
    """A run that was killed in its last steps, and again while the next one goes back or on."""
    for first in ("renameat2:3", "fsync:5"):
        for second in ("renameat2:1", "fsync:1", "unlinkat:1"):
            directory = tmp_path / f"{first}-{second}"
            directory.mkdir()
            older(directory)
            arguments = [*case.arguments, "--threads", "1", "--overwrite"]
            kill(directory, arguments, first, [])
            call, _, number = second.partition(":")
            strace.run(directory, arguments, [f"{call}:signal=KILL:when={number}"])
            assert (directory / OUT).exists()
            check_finish(directory, case, "--overwrite")
            shutil.rmtree(directory)
