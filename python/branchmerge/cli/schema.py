"""`branchmerge schema`: the recipe language as JSON Schema, by which editors complete and check recipes."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from branchmerge.cli import terminal


@click.command("schema", short_help="Print the JSON Schema of recipes, for editors.")
@click.option("-o", "--out", metavar="FILE", help="Write it to a file, which is replaced, and not to standard output.")
@click.option("--verbose", is_flag=True, help="Tracebacks of errors.")
def command(out: str | None, *, verbose: bool) -> int:
    """Print the JSON Schema of recipes; it is made from what the methods say of themselves.

    Editors with a YAML language server complete and check a recipe that begins with this comment:

    # yaml-language-server: $schema=branchmerge.schema.json
    """
    from branchmerge.merge import functions
    from branchmerge.merge.schema import text

    del verbose
    said = text(functions.methods())
    if out is None:
        terminal.say(said.removesuffix("\n"))
    else:
        Path(out).write_text(said, encoding="utf-8")
    return 0
