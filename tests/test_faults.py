"""System calls that fail: what a kernel may lack is ridden out, all else ends with an error that names the file.

The same command afterwards ends as if nothing had been.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import crashes
import pytest
import strace
from crashes import JOURNAL, OUT, PARTIAL, Case, check_left

pytestmark = strace.needed
PARTS = 4
"""Tests among which the calls are divided, so that they run side by side."""
ERRORS = ("EIO", "ENOSPC", "EDQUOT", "EROFS", "EMFILE", "EACCES", "ENOMEM")
"""Errors that end a run."""
OF_INPUTS = ("openat", "statx", "newfstatat", "read", "readlink", "getdents64")


@pytest.fixture
def inputs(case: Case) -> list[str]:
    """The paths of the inputs, on which calls count too."""
    names = ("", "/model.safetensors", "/config.json")
    return [f"{checkpoint}{name}" for checkpoint in case.arguments[1:3] for name in names]


def run(directory: Path, case: Case, rules: list[str], *options: str, beside: list[str] | None = None) -> crashes.Ended:
    """Run the program with one thread, so that its calls come in one order, under these rules."""
    said, lines = strace.run(directory, [*case.arguments, "--threads", "1", *options], rules, beside=beside or [])
    assert any("(INJECTED)" in line for line in lines), f"{rules} befell no call"
    return crashes.Ended(said.returncode, said.stdout, said.stderr, 0)


def check_error(ended: crashes.Ended, directory: Path, case: Case) -> None:
    """An error as promised: a sentence with the path, no traceback, and never a part of a result."""
    assert ended.status == 1, ended.stderr
    assert ended.stdout == ""
    told = ended.stderr.splitlines()
    assert told, "no error was told"
    for line in told:
        assert line.startswith(("error: ", "hint: ")), ended.stderr
    assert any(f"{path}" in told[0] for path in (directory, *case.arguments[1:3])), told[0]
    check_left(directory, [case.expected])


def check_same_command(directory: Path, case: Case) -> crashes.Ended:
    """The same command ends with the right bytes and nothing beside them."""
    ended = crashes.run(directory, case.arguments)
    assert ended.result()["status"] in {"done", "up to date"}
    assert crashes.contents(directory / OUT) == case.expected
    assert [path.name for path in directory.iterdir()] == [OUT]
    return ended


def check_success(ended: crashes.Ended, directory: Path, case: Case) -> None:
    """The run ended well, as if nothing had failed."""
    assert ended.status == 0, ended.stderr
    assert ended.stderr == ""
    assert crashes.contents(directory / OUT) == case.expected
    assert [path.name for path in directory.iterdir()] == [OUT]


def room(directory: Path, name: str) -> Path:
    made = directory / name.replace(":", "-")
    made.mkdir()
    return made


def points(directory: Path, case: Case) -> Iterator[tuple[str, str]]:
    """Calls of a run with an error for each, in turn; of the writes of weights every ninth, all of the last steps."""
    made = strace.calls(room(directory, "made"), [*case.arguments, "--threads", "1"], strace.CHANGING)
    errors = itertools.cycle(ERRORS)
    for number, point in enumerate(made):
        if not point.startswith("pwrite64:") or number % 9 == 0 or number > len(made) - 22:
            yield point, next(errors)


@pytest.mark.parametrize("part", range(PARTS))
def test_a_call_on_the_output_fails(part: int, tmp_path: Path, case: Case) -> None:
    for point, error in list(points(tmp_path, case))[part::PARTS]:
        directory = room(tmp_path, f"{point}-{error}")
        call, _, number = point.partition(":")
        ended = run(directory, case, [f"{call}:error={error}:when={number}"])
        check_error(ended, directory, case)
        check_same_command(directory, case)


@pytest.mark.parametrize(("call", "io"), [*((call, "map") for call in OF_INPUTS), ("pread64", "read")])
def test_a_call_on_an_input_fails(call: str, io: str, tmp_path: Path, case: Case, inputs: list[str]) -> None:
    arguments = [*case.arguments, "--threads", "1", "--io", io]
    made = strace.calls(room(tmp_path, "made"), arguments, [call], beside=inputs, outputs=False)
    assert made
    # The first calls are of planning, the last of the work.
    for point in {made[0], made[len(made) // 2], made[-1]}:
        directory = room(tmp_path, point)
        rule = f"{call}:error=EIO:when={point.partition(':')[2]}"
        said, lines = strace.run(directory, arguments, [rule], beside=inputs, outputs=False)
        assert any("(INJECTED)" in line for line in lines)
        check_error(crashes.Ended(said.returncode, said.stdout, said.stderr, 0), directory, case)
        check_same_command(directory, case)


@pytest.mark.parametrize(
    "rule",
    [
        "openat:error=EINTR:when=1+2",
        "mkdirat:error=EINTR:when=1",
        "pwrite64:error=EINTR:when=1+3",
        "fdatasync:error=EINTR:when=1+2",
        "fsync:error=EINTR:when=1+2",
        "fallocate:error=EINTR:when=1+2",
        "renameat2:error=EINTR:when=1+2",
        "unlinkat:error=EINTR:when=1",
        "flock:error=EINTR:when=1",
        "read:error=EINTR:when=1+2",
        "pread64:error=EINTR:when=1+2",
        "fallocate:error=EOPNOTSUPP",
        "fallocate:error=ENOSYS",
        "renameat2:error=EINVAL",
        "renameat2:error=ENOSYS",
        "flock:error=ENOSYS",
        "flock:error=EOPNOTSUPP",
        "flock:error=ENOLCK",
        "statx:error=ENOSYS",
        "mmap:error=ENODEV",
        "mmap:error=ENOMEM",
        "fsync:error=EINVAL",
    ],
)
def test_what_may_be_lacking_or_interrupted(rule: str, tmp_path: Path, case: Case, inputs: list[str]) -> None:
    options = ["--io", "read"] if rule.startswith("pread64") else []
    ended = run(tmp_path, case, [rule], *options, beside=inputs)
    check_success(ended, tmp_path, case)


@pytest.mark.parametrize("call", ["statx", "flock", "getdents64", "ftruncate"])
def test_a_call_that_asks_about_the_output_fails(call: str, tmp_path: Path, case: Case) -> None:
    # Files get their size by truncation where room cannot be reserved.
    also = ["fallocate:error=EOPNOTSUPP"] if call == "ftruncate" else []
    made = strace.calls(room(tmp_path, "made"), [*case.arguments, "--threads", "1"], [call], inject=also)
    for point in sorted({made[0], made[len(made) // 3], made[len(made) * 2 // 3], made[-1]}):
        directory = room(tmp_path, point)
        ended = run(directory, case, [*also, f"{call}:error=EIO:when={point.partition(':')[2]}"])
        if call == "flock" and ended.status == 0:
            check_success(ended, directory, case)  # it was let go, which nothing waits for
        else:
            check_error(ended, directory, case)
            check_same_command(directory, case)


@pytest.mark.parametrize("error", ["EINVAL", "ENOSYS", "EIO", "EFAULT"])
def test_advice_on_memory_fails(error: str, tmp_path: Path, case: Case) -> None:
    """A kernel that knows not how to bring pages in is ridden out; pages that cannot be brought in are an error."""
    said, _ = strace.run(tmp_path, case.arguments, [f"madvise:error={error}"], outputs=False)
    ended = crashes.Ended(said.returncode, said.stdout, said.stderr, 0)
    if error in {"EINVAL", "ENOSYS"}:
        check_success(ended, tmp_path, case)
    else:
        check_error(ended, tmp_path, case)
        check_same_command(tmp_path, case)


@pytest.mark.parametrize(("when", "works"), [("3+", True), ("1+", False)])
def test_threads_that_cannot_be_started(when: str, works: bool, tmp_path: Path, case: Case) -> None:  # noqa: FBT001
    """Fewer workers are enough; without any thread of its own the engine says so."""
    said, lines = strace.run(
        tmp_path, [*case.arguments, "--threads", "7"], [f"clone3:error=EAGAIN:when={when}"], outputs=False
    )
    assert any("(INJECTED)" in line for line in lines)
    if works:
        check_success(crashes.Ended(said.returncode, said.stdout, said.stderr, 0), tmp_path, case)
    else:
        assert (said.returncode, said.stdout) == (1, "")
        assert said.stderr.startswith("error: start a thread: Resource temporarily unavailable")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6])
def test_a_sync_that_failed_is_final(number: int, tmp_path: Path, case: Case) -> None:
    """What the page cache shows after it may not be on the disk: the next run takes nothing of it on trust."""
    ended = run(tmp_path, case, [f"fdatasync:error=EIO:when={number}"])
    check_error(ended, tmp_path, case)
    journal = tmp_path / PARTIAL / JOURNAL
    unsynced = journal.exists() and b'"unsynced"' in journal.read_bytes()
    again = check_same_command(tmp_path, case)
    if unsynced:
        assert again.result()["resumed_tensors"] == 0
    # The first is of the journal's beginning; then come the weights. All other files are written anew in any case.
    assert unsynced == (number in {2, 3, 4})
