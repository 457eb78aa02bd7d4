"""Starts runs of the installed program that are to be ended, and tells what they left behind."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import program
import pytest

linux = pytest.mark.skipif(sys.platform != "linux", reason="what a process did is read in /proc")
OUT = "out"
PARTIAL = f"{OUT}.partial"
JOURNAL = "branchmerge.journal"


@dataclass(frozen=True)
class Ended:
    """A run that is over: its exit status (negative: the signal), what it said, and the bytes that it wrote."""

    status: int
    stdout: str
    stderr: str
    written: int

    def result(self) -> dict[str, Any]:
        """What `--json` told."""
        assert self.status == 0, self.stderr
        told: dict[str, Any] = json.loads(self.stdout)
        return told


@dataclass(frozen=True)
class Case:
    """A merge that lasts long enough to be stopped, and how it ends when it is not."""

    arguments: list[str]
    expected: dict[str, str]
    written: int
    work: float
    """Seconds from the first file to the end."""


class Running:
    """A run under way in `directory`."""

    def __init__(self, directory: Path, arguments: Sequence[str]) -> None:
        self._streams = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        self.partial = directory / PARTIAL
        self.process = subprocess.Popen(
            [program.PROGRAM, *arguments],
            cwd=directory,
            env=program.ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=self._streams[0],
            stderr=self._streams[1],
        )

    def wait_for_partial(self) -> float:
        """Wait until the output is begun, or the run is over; the clock then."""
        while not self.partial.exists() and not self.over():
            time.sleep(0.0005)
        return time.perf_counter()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; `Popen` would first ask whether the run is over, and its account would be gone."""
        os.kill(self.process.pid, number)

    def end(self) -> Ended:
        """Wait for the end."""
        os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        # The kernel keeps the account of a process until it is waited for.
        account = Path(f"/proc/{self.process.pid}/io").read_text()
        written = int(account.split("wchar:")[1].split()[0])
        status = self.process.wait()
        texts = []
        for stream in self._streams:
            with stream:
                stream.seek(0)
                texts.append(stream.read().decode())
        return Ended(status, texts[0], texts[1], written)

    def over(self) -> bool:
        """Whether the run is over."""
        return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def run(directory: Path, arguments: Sequence[str]) -> Ended:
    """Run the program to its end."""
    return Running(directory, arguments).end()


def kill_at_random(directory: Path, arguments: Sequence[str], dice: random.Random, *, work: float) -> Ended:
    """Run the program and kill it: mostly at a moment of its work, which lasts `work` seconds, else before."""
    running = Running(directory, arguments)
    if dice.random() < 0.9:
        running.wait_for_partial()
        time.sleep(dice.uniform(0, work))
    else:
        time.sleep(dice.uniform(0, 0.3))
    running.signal(signal.SIGKILL)
    return running.end()


def paused(directory: Path, arguments: Sequence[str]) -> Running:
    """A run that has begun its output and stands still; one that was over before it could be stopped is begun again."""
    for _ in range(20):
        running = Running(directory, arguments)
        running.wait_for_partial()
        running.signal(signal.SIGSTOP)
        if running.partial.exists():
            return running
        running.signal(signal.SIGCONT)
        assert running.end().status == 0
        shutil.rmtree(directory / OUT)
    pytest.fail("no run could be stopped in time")


def contents(directory: Path) -> dict[str, str]:
    """Every file below a directory with the hash of its bytes."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if not path.is_dir():
            found[str(path.relative_to(directory))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def claims(directory: Path) -> int:
    """How many tensors the journal of an unfinished run in `directory` says to be finished."""
    for journal in (directory / PARTIAL / JOURNAL, directory / f"{PARTIAL}.journal"):
        if journal.exists():
            lines = journal.read_bytes().split(b"\n")[:-1]
            return sum(line[17:].startswith(b'{"finished"') for line in lines)
    return 0


def check_left(directory: Path, expected: Sequence[dict[str, str]]) -> None:
    """A killed run leaves no part of a result under its name: nothing is there, or one of `expected` is, whole."""
    if (directory / OUT).exists():
        assert contents(directory / OUT) in expected


def check_finish(directory: Path, case: Case, *options: str) -> Ended:
    """The same command again ends well, with the right bytes, nothing beside them, and no work done twice."""
    claimed = claims(directory)
    ended = run(directory, [*case.arguments, *options])
    result = ended.result()
    assert ended.stderr == ""
    assert contents(directory / OUT) == case.expected
    assert [path.name for path in directory.iterdir()] == [OUT]
    assert result["resumed_tensors"] == (claimed if result["status"] == "done" else 0)
    # What it tells is what it did: the journal, the manifest and the result itself are the rest.
    assert abs(ended.written - result["bytes_written"]) < 100_000
    return ended
