"""`branchmerge demo`: three small branches made on the spot, fused, verified, explained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from branchmerge.cli import options, terminal

if TYPE_CHECKING:
    from branchmerge.merge.demo import Origin

RESULT = "tiny"


@click.command("demo", short_help="Three small branches made on the spot, fused, verified, explained.")
@click.argument("directory", metavar="[DIR]", default="demo", type=click.Path(path_type=Path))
@click.option("--verbose", is_flag=True, help="Tracebacks of errors.")
def command(directory: Path, *, verbose: bool) -> int:
    """Make three small branches of one base in DIR (`demo`), fuse them with Arcee Fusion, verify and explain."""
    from branchmerge.merge import demo, functions

    del verbose
    say = terminal.say
    branches = demo.make(directory)
    names = ", ".join(f"`{path}`" for path in branches)
    say(f"Made three branches of `{directory / demo.BASE}`, a Llama of 0.6 million weights: {names}.\n")
    say(f"$ branchmerge fuse {' '.join(map(str, branches))} --method arcee -o {directory / RESULT}")
    with terminal.progress(quiet=False) as report:
        result = functions.fuse(*branches, method="arcee", out=directory / RESULT, io="map", progress=report)
    say(f"{result.out}: {result.status}")
    say(terminal.table(options.closing_rows(result)))
    say(f"\n$ branchmerge verify {directory / RESULT}")
    found = functions.verify(directory / RESULT)
    if found.problems:
        return terminal.complain_all(found.problems)
    say(f"{found.tensors} tensors, {terminal.size(found.bytes)}: all as the manifest says\n")
    say(_explained(demo.origins(directory / RESULT, branches), directory))
    return 0


def _explained(rows: list[Origin], directory: Path) -> str:
    from branchmerge.merge.demo import BRANCHES

    head = ["weights", "elements", *(f"from {branch}" for branch in BRANCHES)]
    cells = [
        [row.kind, f"{row.elements:,}", *(f"{100 * row.taken[branch] / row.elements:.1f} %" for branch in BRANCHES)]
        for row in rows
    ]
    return f"""What happened: arcee(code, arcee(science, math)), the order of the TinyR1 release.
{terminal.table([head, *cells])}
Every weight of the result is one branch's own, bit for bit. Most are the code branch's, because it is the base of the
last fusion; what stands out in the other two was taken from them.
`{directory / RESULT}` is a checkpoint like its parents, with a model card (README.md) and a
manifest (branchmerge.json).

Now with checkpoints of your own:
  branchmerge fuse CHECKPOINT CHECKPOINT --method arcee -o OUT
  branchmerge methods"""
