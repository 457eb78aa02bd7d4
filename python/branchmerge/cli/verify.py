"""`branchmerge verify`: whether a result still matches its manifest, byte for byte."""

from __future__ import annotations

import rich_click as click

from branchmerge.cli import terminal


@click.command("verify", short_help="Does a result still match its manifest, byte for byte?")
@click.argument("directory", metavar="DIR")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Worker threads (all cores).")
@click.option("--json", "as_json", is_flag=True, help="What was found as JSON on standard output, nothing else there.")
@click.option("--quiet", is_flag=True, help="Errors only.")
@click.option("--verbose", is_flag=True, help="Tracebacks of errors.")
def command(directory: str, threads: int | None, *, as_json: bool, quiet: bool, verbose: bool) -> int:
    """Compare every file and tensor of DIR, or of a moved copy of it, with its branchmerge.json.

    Any flipped bit, added, missing or resized file is named; the exit status is then 1.
    """
    from branchmerge.merge import functions
    from branchmerge.merge.results import as_data

    del verbose
    with terminal.progress(quiet=quiet) as report:
        found = functions.verify(directory, threads=threads, progress=report)
    if as_json:
        terminal.say_json(as_data(found))
    if found.problems:
        return terminal.complain_all(found.problems)
    if not as_json and not quiet:
        terminal.say(f"{directory}: {found.tensors:,} tensors, {terminal.size(found.bytes)}: all as the manifest says")
    return 0
