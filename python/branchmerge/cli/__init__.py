"""The program `branchmerge`: standard streams made safe, signals listened to, the exit status as promised.

This file imports next to nothing, so that even a Ctrl-C while the rest is imported ends as it should. Each command is
one file beside it; `program` gathers them.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn, TextIO

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType


HUB = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_VERBOSITY": "error"}
"""What huggingface_hub is told: progress and warnings are ours to show."""

INTERRUPTED = 128
"""From here on a status tells of a signal."""


class Stopped(BaseException):
    """A signal asked to stop: `status` is the exit status, 128 and the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; the exit status is returned."""
    _mend_streams()
    said = sys.argv[1:] if arguments is None else list(arguments)
    for name, value in HUB.items():
        os.environ.setdefault(name, value)
    try:
        _listen()
        from branchmerge.cli import program

        status = program.run(said)
    except (Exception, KeyboardInterrupt, Stopped) as error:  # noqa: BLE001 (the one place where all errors are told)
        from branchmerge.cli import terminal

        status = terminal.tell(error, verbose="--verbose" in said)
    try:
        status = _flushed(status)
    except Stopped as stopped:
        status = stopped.status
    _listen_no_more()
    if status >= INTERRUPTED:
        _leave_at_once(status)
    return status


def _mend_streams() -> None:
    """Open what is closed of the descriptors 0 to 2: the first file opened must not become standard output."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            # A name that the locale cannot show must not end a merge.
            stream.reconfigure(errors="backslashreplace")


def _listen() -> None:
    """Let SIGINT, SIGTERM and SIGHUP end the run in one way, unless whoever started it wants them ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) in {signal.SIG_DFL, signal.default_int_handler}:
            signal.signal(number, _stop)


def _leave_at_once(status: int) -> None:
    """End without the threads of libraries that are in a transfer: the interpreter would wait for them."""
    threading = sys.modules.get("threading")
    if threading is not None and threading.active_count() > 1:
        os._exit(status)


def _listen_no_more() -> None:
    """What is done is done: a signal while the interpreter ends must not make it look otherwise."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is _stop:
            signal.signal(number, signal.SIG_IGN)


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    raise Stopped(number)


def _flushed(status: int) -> int:
    """Write out what is buffered. A reader that went away is no error of ours; a full disk is."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        discard(sys.stdout)
    except OSError as error:
        discard(sys.stdout)
        from branchmerge.cli import terminal

        terminal.complain(f"standard output: {error.strerror}")
        status = status or 1
    try:
        sys.stderr.flush()
    except OSError:
        discard(sys.stderr)
    return status


def discard(stream: TextIO) -> None:
    """Point a stream that cannot be written at nothing, so that the interpreter's last flush succeeds."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, stream.fileno())
    os.close(nothing)
