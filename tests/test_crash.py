"""Runs killed at random moments: the same command afterwards ends as if nothing had happened.

`pytest --crashes 5000` kills as many.
"""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import crashes
import pytest
from crashes import JOURNAL, OUT, PARTIAL, Case, check_finish, check_left

pytestmark = crashes.linux
WEIGHTS = "model-00001-of-00003.safetensors"


def directories(room: Path, seeds: Sequence[int]) -> Iterator[tuple[Path, random.Random]]:
    """A working directory for each seed, taken away where its test went well."""
    for seed in seeds:
        directory = room / str(seed)
        directory.mkdir()
        yield directory, random.Random(seed)
        shutil.rmtree(directory)


def test_kills(crash_seeds: Sequence[int], tmp_path: Path, case: Case) -> None:
    for directory, dice in directories(tmp_path, crash_seeds):
        killed = crashes.kill_at_random(directory, case.arguments, dice, work=case.work)
        assert killed.status in {-signal.SIGKILL, 0}
        check_left(directory, [case.expected])
        again = check_finish(directory, case)
        assert killed.written + again.written <= 1.25 * case.written


def test_kills_of_resumed_runs(tmp_path: Path, case: Case) -> None:
    for directory, dice in directories(tmp_path, range(6)):
        for _ in range(dice.randint(2, 4)):
            crashes.kill_at_random(directory, case.arguments, dice, work=case.work / 2)
            check_left(directory, [case.expected])
        check_finish(directory, case)


def test_kills_while_replacing(tmp_path: Path, case: Case) -> None:
    for directory, dice in directories(tmp_path, range(6)):
        (directory / OUT).mkdir()
        (directory / OUT / "precious").write_text("an older result")
        old = crashes.contents(directory / OUT)
        arguments = [*case.arguments, "--overwrite"]
        crashes.kill_at_random(directory, arguments, dice, work=case.work)
        assert (directory / OUT).exists()
        check_left(directory, [old, case.expected])
        check_finish(directory, case, "--overwrite")


def stopped(directory: Path, case: Case) -> int:
    """Stop a run once it has finished a tensor and before it has finished all; how many it has."""
    for _ in range(20):
        running = crashes.Running(directory, case.arguments)
        running.wait_for_partial()
        while not (claimed := crashes.claims(directory)) and not running.over():
            time.sleep(0.0005)
        running.signal(signal.SIGKILL)
        running.end()
        if not (directory / OUT).exists():
            return claimed
        shutil.rmtree(directory / OUT)
    pytest.fail("no run could be stopped in time")


def flip(path: Path, at: float) -> None:
    """Change one bit of the byte that stands at this share of the file."""
    with path.open("r+b") as file:
        file.seek(int(at * path.stat().st_size))
        (byte,) = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))


def cut(path: Path, share: float) -> None:
    """Leave this share of a file."""
    with path.open("r+b") as file:
        file.truncate(int(share * path.stat().st_size))


def spoil(path: Path, added: bytes) -> None:
    """Append to a file."""
    with path.open("ab") as file:
        file.write(added)


def whole_line(journal: Path) -> None:
    """Let the journal claim its last tensor once more, under a hash that its bytes do not have."""
    lines = journal.read_bytes().splitlines(keepends=True)
    spoil(journal, lines[-1].replace(b"hash", b"hush"))


def directory_for(path: Path) -> None:
    """Put a directory in the place of a file."""
    path.unlink()
    path.mkdir()


def link_for(path: Path) -> None:
    """Move a file out and leave a link to it."""
    elsewhere = path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(elsewhere)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a byte of a finished tensor": lambda partial: flip(partial / WEIGHTS, 0.1),
    "a byte of an unfinished tensor": lambda partial: flip(partial / WEIGHTS, 0.99),
    "a byte of the header": lambda partial: flip(partial / WEIGHTS, 2e-5),
    "the size of the header": lambda partial: flip(partial / WEIGHTS, 0),
    "weights cut short": lambda partial: cut(partial / WEIGHTS, 0.1),
    "weights emptied": lambda partial: cut(partial / WEIGHTS, 0),
    "weights longer": lambda partial: spoil(partial / WEIGHTS, b"x" * 5000),
    "weights taken away": lambda partial: (partial / WEIGHTS).unlink(),
    "weights not begun taken away": lambda partial: (partial / "model-00003-of-00003.safetensors").unlink(),
    "a directory for the weights": lambda partial: directory_for(partial / WEIGHTS),
    "a link for the weights": lambda partial: link_for(partial / WEIGHTS),
    "a torn line": lambda partial: cut(partial / JOURNAL, 0.9),
    "a journal of one byte less": lambda partial: cut(partial / JOURNAL, 0.9999),
    "garbage at the end": lambda partial: spoil(partial / JOURNAL, random.Random(1).randbytes(3000)),
    "zeros at the end": lambda partial: spoil(partial / JOURNAL, bytes(4096)),
    "a line that was changed": lambda partial: whole_line(partial / JOURNAL),
    "a bit of a line": lambda partial: flip(partial / JOURNAL, 0.8),
    "a file that is not ours": lambda partial: (partial / "more").write_text("x"),
    "no journal": lambda partial: (partial / JOURNAL).unlink(),
    "a journal cut in its first line": lambda partial: cut(partial / JOURNAL, 0.05),
    "an empty journal": lambda partial: cut(partial / JOURNAL, 0),
}
REFUSED = {"no journal", "a journal cut in its first line", "an empty journal"}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_between_a_crash_and_the_next_run(damage: str, tmp_path: Path, case: Case) -> None:
    claimed = stopped(tmp_path, case)
    DAMAGES[damage](tmp_path / PARTIAL)
    before = crashes.contents(tmp_path / PARTIAL)
    ended = crashes.run(tmp_path, case.arguments)
    if damage in REFUSED:
        assert ended.status == 1
        assert f"{PARTIAL}`: holds files, but no journal of an unfinished run" in ended.stderr
        assert crashes.contents(tmp_path / PARTIAL) == before
        assert not (tmp_path / OUT).exists()
        return
    assert ended.result()["resumed_tensors"] <= claimed
    assert crashes.contents(tmp_path / OUT) == case.expected
    assert not (tmp_path / PARTIAL).exists()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_at_any_moment(number: signal.Signals, status: int, tmp_path: Path, case: Case) -> None:
    took = []
    ended_early = 0
    for directory, dice in directories(tmp_path, range(5)):
        running = crashes.Running(directory, case.arguments)
        running.wait_for_partial()
        time.sleep(dice.uniform(0, case.work / 2))
        start = time.perf_counter()
        running.signal(number)
        ended = running.end()
        took.append(time.perf_counter() - start)
        assert ended.status in {status, 0}
        check_left(directory, [case.expected])
        ended_early += not (directory / OUT).exists()
        if ended.status == status:
            assert ended.stderr.startswith("error: interrupted\n")
            assert (directory / PARTIAL).exists() == ("the same command again resumes" in ended.stderr)
        check_finish(directory, case)
    assert ended_early >= 3
    assert sorted(took)[2] < 0.5  # what is promised
    assert max(took) < 1.5  # the machine may be busy
