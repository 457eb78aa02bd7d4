"""`branchmerge push`: a checkpoint goes to the hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

import rich_click as click

from branchmerge.cli import terminal

if TYPE_CHECKING:
    from branchmerge.hub.pushing import Pushed


@click.command("push", short_help="Upload a checkpoint to the hub.")
@click.argument("directory", metavar="DIR")
@click.argument("repo", metavar="org/name")
@click.option("--private", is_flag=True, help="Where the repository is new: nobody else sees it.")
@click.option("--revision", metavar="BRANCH", help="The branch; made where there is none (main).")
@click.option("--message", metavar="TEXT", help="The commit's message.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON on standard output, nothing else there.")
@click.option("--quiet", is_flag=True, help="Errors only.")
@click.option("--verbose", is_flag=True, help="Tracebacks of errors.")
def command(
    directory: str,
    repo: str,
    *,
    private: bool,
    revision: str | None,
    message: str | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Upload DIR to the hub as org/name, and print the (last) commit's address.

    A result of branchmerge is compared with its manifest first, byte for byte. Hidden files stay here. Weight files
    that the repository had and DIR has not are removed there. Log in with `hf auth login`, or set HF_TOKEN.
    """
    from branchmerge.merge import functions
    from branchmerge.merge.results import as_data

    del verbose
    with terminal.progress(quiet=quiet) as report:
        pushed = functions.push(directory, repo, private=private, revision=revision, message=message, progress=report)
    if as_json:
        terminal.say_json(as_data(pushed))
    elif not quiet:
        tell(directory, pushed)
    return 0


def tell(directory: str, pushed: Pushed) -> None:
    """Print where a directory went."""
    terminal.say(f"{directory}: pushed to {pushed.repo}")
    terminal.say(terminal.table([["commit", pushed.commit], ["address", pushed.url]]))
