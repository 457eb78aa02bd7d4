"""What a person sees: errors with their hints, warnings, a progress bar, tables of two columns.

Results go to standard output, everything else to standard error. A standard error that is closed or full loses the
message and nothing more: it never ends a merge.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from branchmerge.cli import Stopped, discard
from branchmerge.errors import LONGEST_MESSAGE, BranchmergeError, Problem, RecipeError, cut, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from branchmerge.merge.results import Progress


def say(text: str) -> None:
    """A line of the result; where its reader went away it is lost, where it cannot be stored that is an error."""
    try:
        sys.stdout.write(text + "\n")
    except BrokenPipeError:
        discard(sys.stdout)
    except OSError as error:
        raise OSError(error.errno, f"standard output: {error.strerror}") from error


def say_json(data: Any) -> None:
    """The result for machines."""
    say(json.dumps(data, indent=2))


def note(text: str) -> None:
    """A line beside the result."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def warn(text: str) -> None:
    """Something worth knowing that stops nothing."""
    note(f"warning: {cut(text, LONGEST_MESSAGE)}")


def complain(message: str, hint: str | None = None) -> None:
    """An error as promised: the sentence, and apart from it what to do."""
    note(f"error: {cut(message, LONGEST_MESSAGE)}")
    if hint:
        note(f"hint: {hint}")


def complain_all(problems: Sequence[Problem]) -> int:
    """Tell every problem, as many as the longest message holds; the exit status comes back."""
    room = LONGEST_MESSAGE - 200
    for told, problem in enumerate(problems):
        room -= len(str(problem)) + len(problem.hint or "") + 20
        if room < 0 and told:
            complain(f"… and {len(problems) - told} more")
            break
        complain(str(problem), problem.hint)
    kinds = {problem.kind for problem in problems}
    return 2 if len(kinds) > 1 or kinds == {"recipe"} else 1


def tell(error: BaseException, *, verbose: bool) -> int:
    """Tell what ended the run; the exit status comes back."""
    import click

    if verbose and not isinstance(error, click.ClickException):
        note("".join(traceback.format_exception(error)).rstrip())
    hint = getattr(error, "hint", None)
    match error:
        case Stopped() | KeyboardInterrupt() | click.Abort():
            complain("interrupted", hint)
            return error.status if isinstance(error, Stopped) else 130
        case BrokenPipeError():
            return 0
        case click.ClickException():
            complain(*_usage(error))
            return 2
        case BranchmergeError(problems=problems):
            complain_all(problems)
            return 2 if isinstance(error, RecipeError) else 1
        case OSError():
            complain(_os_message(error), hint)
        case MemoryError():
            complain("out of memory", "give a smaller `--memory` or fewer `--threads`")
        case _:
            text = cut(f"{type(error).__name__}: {error}", 1000)
            complain(f"internal error: {text}", "this is a defect of branchmerge; `--verbose` shows where")
    return 1


@contextmanager
def progress(*, quiet: bool, counted: str = "") -> Iterator[Callable[[Progress], object] | None]:
    """A bar with bytes, rate and time left, on a terminal only; what is yielded takes the progress.

    With `counted`, such as `texts`, it is their number that is told, which stands where tensors are counted.
    """
    if quiet or not _is_terminal():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bar

    figures = (MofNCompleteColumn(), TextColumn(counted)) if counted else (DownloadColumn(), TransferSpeedColumn())
    columns = (TextColumn("{task.description}"), BarColumn(), *figures)
    bar = Bar(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True, auto_refresh=False)
    task = bar.add_task("")

    def report(done: Progress) -> None:
        with contextlib.suppress(OSError, ValueError):
            at, all_ = (done.tensors_done, done.tensors_total) if counted else (done.bytes_done, done.bytes_total)
            bar.update(task, description=done.phase, completed=at, total=all_ or None)
            bar.refresh()

    with contextlib.suppress(OSError, ValueError):
        bar.start()
    try:
        yield report
    finally:
        with contextlib.suppress(OSError, ValueError):
            bar.stop()


def table(rows: Iterable[Sequence[str]], *, indent: str = "  ") -> str:
    """Columns of texts: the first to the left, the others to the right where they are numbers."""
    lines = [list(row) for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join(
        indent + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def size(count: float) -> str:
    """Bytes as disks count them."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:.0f} bytes"


def memory(count: float) -> str:
    """Bytes as memory counts them."""
    return f"{count / (1 << 20):.1f} MiB" if count < 1 << 30 else f"{count / (1 << 30):.2f} GiB"


def _is_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def _usage(error: Any) -> tuple[str, str | None]:
    """A mistake in the command line: click's sentence in our form."""
    import click

    if isinstance(error, click.NoSuchOption):
        near = ", ".join(f"`{name}`" for name in error.possibilities or ())
        return f"no such option `{shown(error.option_name)}`", f"did you mean {near}?" if near else None
    message = error.format_message().strip().rstrip(".")
    message = message[:1].lower() + message[1:]
    context = getattr(error, "ctx", None)
    said = cut(" ".join(shown(line) for line in message.splitlines()), 1000)
    return said, f"`{context.command_path} --help` tells more" if context is not None else None


def _os_message(error: OSError) -> str:
    said = error.strerror or str(error)
    path = error.filename if isinstance(error.filename, str) else None
    return said if path is None or shown(path) in said else f"`{shown(path)}`: {said}"
