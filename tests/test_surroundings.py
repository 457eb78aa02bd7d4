"""Disks that are full, read-only or taken away, few descriptors, a strict umask, inputs that change during the run."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import checkpoints
import crashes
import program
import pytest
import strace
from crashes import OUT, PARTIAL, Case

pytestmark = crashes.linux
ROOT = os.geteuid() == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MB, which is less than the result of `case`."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", directory], check=False)
    if mounted.returncode:
        pytest.skip("a file system cannot be mounted here")
    yield directory
    subprocess.run(["umount", directory], check=True)


mounting = pytest.mark.skipif(not ROOT or shutil.which("mount") is None, reason="only root mounts file systems")


@mounting
def test_a_disk_that_is_too_small(small_disk: Path, case: Case) -> None:
    """It is told before anything is written."""
    ended = crashes.run(small_disk, case.arguments)
    assert ended.status == 2
    assert "bytes are needed on the disk, 12582912 are free" in ended.stderr
    assert list(small_disk.iterdir()) == []


@mounting
def test_a_disk_that_fills_up(small_disk: Path, case: Case) -> None:
    """A run that had room when it was planned, and has none when the small files come; then the room is back."""
    subprocess.run(["mount", "-o", "remount,size=17m", small_disk], check=True)
    running = crashes.paused(small_disk, case.arguments)
    taken = small_disk / "taken"
    with taken.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    running.signal(signal.SIGCONT)
    ended = running.end()
    assert ended.status == 1
    assert "No space left on device" in ended.stderr
    assert f"{small_disk / PARTIAL}" in ended.stderr
    assert not (small_disk / OUT).exists()
    taken.unlink()
    subprocess.run(["mount", "-o", "remount,size=40m", small_disk], check=True)
    assert crashes.run(small_disk, case.arguments).status == 0
    assert crashes.contents(small_disk / OUT) == case.expected


@mounting
def test_a_disk_that_is_read_only(small_disk: Path, case: Case) -> None:
    subprocess.run(["mount", "-o", "remount,ro,size=40m", small_disk], check=True)
    ended = crashes.run(small_disk, case.arguments)
    assert ended.status in {1, 2}
    assert f"`{small_disk}`: write to the directory: Read-only file system" in ended.stderr


@pytest.mark.skipif(ROOT, reason="root may write anywhere")
def test_a_directory_that_may_not_be_written_to(tmp_path: Path, case: Case) -> None:
    tmp_path.chmod(0o555)
    ended = crashes.run(tmp_path, case.arguments)
    assert ended.status == 1
    assert f"`{tmp_path}`: write to the directory: Permission denied" in ended.stderr


def test_a_parent_that_is_missing(tmp_path: Path, case: Case) -> None:
    ended = crashes.run(tmp_path, [*case.arguments, "-o", "missing/out"])
    assert ended.status in {1, 2}
    assert ended.stderr.startswith("error: ")
    assert "missing" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_strict_umask(tmp_path: Path, case: Case) -> None:
    """What is written is as private as the umask says, and otherwise the same."""
    said = subprocess.run(
        ["bash", "-c", 'umask 077; exec "$@"', "bash", program.PROGRAM, *case.arguments],
        cwd=tmp_path, capture_output=True, text=True, check=False, env={**program.ENVIRONMENT, "LC_ALL": "C"},
    )  # fmt: skip
    assert (said.returncode, said.stderr) == (0, "")
    assert crashes.contents(tmp_path / OUT) == case.expected
    for path in [tmp_path / OUT, *(tmp_path / OUT).iterdir()]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


@pytest.mark.parametrize("io", ["map", "read"])
def test_few_descriptors(io: str, models: Path) -> None:
    """Under a limit that the shards exceed when each holds a descriptor: mapped ones hold none."""
    shapes = {f"model.layers.{layer}.mlp.up_proj.weight": (8, 8) for layer in range(30)}
    for seed, name in enumerate("xy", 2):
        checkpoints.write(models / name, checkpoints.weights(seed, of=1, shapes=shapes), shards=30)
    said = program.shell(f"ulimit -n 20; branchmerge fuse x y -o out --io {io}", cwd=models)
    if io == "map":
        assert (said.returncode, said.stderr) == (0, "")
        assert program.run("verify", "out", cwd=models).returncode == 0
    else:
        assert said.returncode == 1
        assert "of-00030.safetensors`: open: Too many open files" in said.stderr
        assert said.stderr.startswith("error: ")
        assert not (models / "out").exists()
    assert not (models / "out.partial").exists()


def replace(path: Path) -> None:
    """Put another file of the same size in a file's place."""
    other = path.with_name("other")
    shutil.copy(path, other)
    other.rename(path)


def write_to(path: Path) -> None:
    """Change a byte of a file."""
    with path.open("r+b") as file:
        file.seek(-2, os.SEEK_END)
        (byte,) = file.read(1)
        file.seek(-2, os.SEEK_END)
        file.write(bytes([byte ^ 1]))


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut short": (lambda path: os.truncate(path, path.stat().st_size // 2), "bytes, it was"),
    "emptied": (lambda path: os.truncate(path, 0), "it is 0 bytes, it was"),
    "made longer": (lambda path: os.truncate(path, path.stat().st_size + 1), "bytes, it was"),
    "taken away": (Path.unlink, "it is no longer there"),
    "replaced": (replace, "another file is in its place"),
    "written to": (write_to, "it was written to"),
}


@pytest.mark.parametrize("io", ["map", "read"])
@pytest.mark.parametrize("change", CHANGES)
def test_an_input_that_changes_during_the_run(change: str, io: str, tmp_path: Path, case: Case) -> None:
    copy = tmp_path / "b"
    shutil.copytree(case.arguments[2], copy)
    arguments = ["fuse", case.arguments[1], str(copy), *case.arguments[3:], "--io", io, "--threads", "1"]
    running = crashes.paused(tmp_path, arguments)
    alter, message = CHANGES[change]
    alter(copy / "model.safetensors")
    running.signal(signal.SIGCONT)
    ended = running.end()
    assert ended.status == 1
    assert ended.stdout == ""
    assert ended.stderr.startswith("error: ")
    assert f"`{copy / 'model.safetensors'}`" in ended.stderr
    assert message in ended.stderr
    assert not (tmp_path / OUT).exists()
    # The next run sees that it has other inputs than the one that it could go on with.
    assert crashes.run(tmp_path, arguments).status in {1, 2}
    assert not (tmp_path / OUT).exists()


@strace.needed
@pytest.mark.parametrize("method", ["arcee", "passthrough"])
def test_an_input_cut_short_on_a_kernel_that_cannot_bring_pages_in(method: str, tmp_path: Path, case: Case) -> None:
    """The lost page is a signal there: it must become an error with the file's name all the same."""
    copy = tmp_path / "b"
    shutil.copytree(case.arguments[2], copy)
    # The run waits a second before its output is begun.
    rules = ["mkdirat:delay_enter=1000000", "madvise:error=EINVAL"]
    inputs = [str(copy)] if method == "passthrough" else [case.arguments[1], str(copy)]
    arguments = ["fuse", *inputs, "--method", method, "-o", OUT, "--io", "map"]
    log = tmp_path / "log"
    with subprocess.Popen(
        [*strace.command(str(log), ["mkdirat", "madvise"], rules), program.PROGRAM, *arguments],
        cwd=tmp_path, env=strace.ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        while running.poll() is None and not (log.exists() and "mkdirat" in log.read_text()):
            time.sleep(0.01)
        os.truncate(copy / "model.safetensors", 5000)
        _, told = running.communicate(timeout=60)
    assert running.returncode == 1
    assert told.startswith("error: ")
    assert f"`{copy / 'model.safetensors'}`" in told
    assert "it is 5000 bytes, it was" in told
    assert not (tmp_path / OUT).exists()
