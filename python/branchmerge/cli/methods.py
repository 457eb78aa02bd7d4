"""`branchmerge methods`: the list of merge methods, or one method's page; all of it is read from the specs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import rich_click as click

from branchmerge.cli import pages, terminal
from branchmerge.errors import RecipeError, shown

if TYPE_CHECKING:
    from branchmerge.merge.specs import Method


@click.command("methods", short_help="List the merge methods, or show one method's page.")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="As JSON on standard output, nothing else there.")
@click.option("--markdown", is_flag=True, help="As Markdown: without NAME all pages, as docs/methods.md has them.")
@click.option("--verbose", is_flag=True, help="Tracebacks of errors.")
def command(name: str | None, *, as_json: bool, markdown: bool, verbose: bool) -> int:
    """List the merge methods; with NAME, tell what that method does, when to use it, what it takes and costs."""
    from branchmerge.merge import functions
    from branchmerge.merge.results import as_data
    from branchmerge.merge.specs import named

    del verbose
    known = functions.methods()
    method: Method | None = None
    if name is not None:
        method = named(known, name)
        if method is None:
            raise RecipeError(f"unknown method `{shown(name)}`", hint=f"known are {', '.join(known)}")
    if as_json:
        terminal.say_json(as_data(method) if method else [as_data(one) for one in known.values()])
    elif markdown:
        terminal.say(pages.markdown(method) if method else pages.all_markdown(known))
    elif method:
        terminal.say(pages.plain(method))
    else:
        terminal.say(terminal.table([[one.name, one.sentence] for one in known.values()], indent=""))
    return 0
