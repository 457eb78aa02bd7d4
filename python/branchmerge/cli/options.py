"""The flags that `fuse` and `merge` share, and what the two do once they have a recipe."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import rich_click as click

from branchmerge.cli import Stopped, terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from branchmerge.merge.functions import Options
    from branchmerge.merge.recipe import Recipe
    from branchmerge.merge.results import Result

DECLARED = (
    click.option("--dtype", metavar="DTYPE", help="Stored type of the result: bfloat16, float16, … (the base's)."),
    click.option("--threads", type=click.IntRange(1), metavar="N", help="Worker threads (all cores)."),
    click.option("--memory", metavar="SIZE", help="A bound on private memory, like 8GiB (most of what is free)."),
    click.option("--shard-size", metavar="SIZE", help="Largest weight file, in bytes as transformers counts (5GB)."),
    click.option("--seed", type=int, metavar="N", help="Seed of everything drawn by chance (0)."),
    click.option("--allow", multiple=True, metavar="RULE", help="Permit by name what is refused: missing=base, …"),
    click.option("--io", type=click.Choice(["map", "read"]), default="map", help="How inputs are read (map)."),
    click.option("--tokenizer", metavar="WHICH", help="Whose is carried: base, union or one of the models (base)."),
    click.option("--overwrite", is_flag=True, help="Replace what stands at the target, once the result is whole."),
    click.option("--push", metavar="org/name", help="Upload the result to the hub (org/name@branch: to a branch)."),
    click.option("--dry-run", is_flag=True, help="Tell what would happen, and every problem; write nothing."),
    click.option("--json", "as_json", is_flag=True, help="The result as JSON on standard output, nothing else there."),
    click.option("--quiet", is_flag=True, help="Errors only."),
    click.option("--verbose", is_flag=True, help="Figures of each tensor; tracebacks of errors."),
)


@dataclass(frozen=True, slots=True)
class Flags:
    """The shared flags as given."""

    dtype: str | None
    threads: int | None
    memory: str | None
    shard_size: str | None
    seed: int | None
    allow: tuple[str, ...]
    io: str
    tokenizer: str | None
    overwrite: bool
    push: str | None
    dry_run: bool
    as_json: bool
    quiet: bool
    verbose: bool


def shared(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the shared flags, which it takes as keywords for `Flags`."""
    for option in reversed(DECLARED):
        command = option(command)
    return command


def run(recipe: Recipe, out: str, flags: Flags) -> int:
    """Plan the recipe and carry it out, or tell its plan; the exit status comes back."""
    from branchmerge.cli.plan import tell_plan
    from branchmerge.hub import pushing
    from branchmerge.merge import functions

    to = None if flags.push is None else str(pushing.target(flags.push))
    said = functions.with_flags(
        recipe, dtype=flags.dtype, seed=flags.seed, allow=flags.allow, tokenizer=flags.tokenizer
    )
    plan = functions.decide(said, _options(out, flags))
    if flags.dry_run:
        return tell_plan(plan, as_json=flags.as_json, quiet=flags.quiet)
    _warn(plan.warnings, flags)
    if plan.problems:
        return terminal.complain_all(plan.problems)
    with _resumable(out), terminal.progress(quiet=flags.quiet) as report:
        result = functions.carry_out(plan, progress=report)
    _warn([one for one in result.warnings if one not in plan.warnings], flags)
    _tell_result(result, flags)
    if to is not None:
        _push(result.out, to, flags)
    return 0


def _push(out: str, to: str, flags: Flags) -> None:
    """Upload the result; where that fails, say how it is tried again without the merge."""
    from branchmerge.cli.push import tell
    from branchmerge.merge import functions

    try:
        with terminal.progress(quiet=flags.quiet) as report:
            pushed = functions.push(out, to, progress=report)
    except Exception:
        terminal.note(f"note: the result is whole; `branchmerge push {out} {to}` tries again")
        raise
    if not flags.quiet and not flags.as_json:
        tell(out, pushed)


def _warn(warnings: Iterable[str], flags: Flags) -> None:
    if not flags.quiet:
        for warning in warnings:
            terminal.warn(warning)


def _options(out: str, flags: Flags) -> Options:
    from branchmerge.merge.functions import Options

    return Options(out, flags.threads, flags.memory, flags.shard_size, flags.io, flags.overwrite)


@contextmanager
def _resumable(out: str) -> Iterator[None]:
    """Say how an interrupted run goes on."""
    try:
        yield
    except (KeyboardInterrupt, Stopped) as error:
        partial = f"{out.rstrip('/')}.partial"
        if os.path.isdir(partial):  # noqa: PTH112 (a path as given, never normalised)
            error.hint = f"the same command again resumes what `{partial}` holds"  # type: ignore[union-attr]
        raise


def _tell_result(result: Result, flags: Flags) -> None:
    from branchmerge.merge.results import as_data

    if flags.as_json:
        terminal.say_json(as_data(result))
    elif not flags.quiet:
        terminal.say(f"{result.out}: {result.status}")
        terminal.say(terminal.table(closing_rows(result)))
        if flags.verbose:
            terminal.say(terminal.table([["tensor", "figures"], *_figures(result)]))


def closing_rows(result: Result) -> list[list[str]]:
    """The closing table: what was made, how long it took, what it cost."""
    moved = result.bytes_read + result.bytes_written
    rows = [["method", result.method], ["tensors", f"{result.tensors:,}"], ["elements", f"{result.elements:,}"]]
    if result.share_taken is not None:
        rows.append(["share taken", f"{100 * result.share_taken:.2f} %"])
    for found in result.surveys:
        rows += [[f"{name} found", ", ".join(f"{value:.4g}" for value in values)] for name, values in found.items()]
    if result.resumed_tensors:
        rows.append(["resumed", f"{result.resumed_tensors:,} tensors"])
    rows += [["time", f"{result.seconds:.2f} s"], ["read", terminal.size(result.bytes_read)]]
    rows += [["written", terminal.size(result.bytes_written)]]
    if result.seconds > 0 and moved:
        rows.append(["rate", f"{moved / result.seconds / 1e9:.2f} GB/s read and written"])
    rows.append(["private peak", terminal.memory(result.private_peak)])
    rows += [["allowed", f"{one.get('rule')}: {one.get('tensor') or ''}".rstrip(": ")] for one in result.allowed[:20]]
    return rows


def _figures(result: Result) -> list[list[str]]:
    return [
        [name, ", ".join(f"{key} {value:.6g}" if isinstance(value, float) else f"{key} {value}"
                         for key, value in figures.items())]
        for name, figures in result.statistics.items()
    ]  # fmt: skip
