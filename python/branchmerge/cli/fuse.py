"""`branchmerge fuse`: checkpoints named on the command line become one."""

from __future__ import annotations

import re
from typing import Any

import rich_click as click

from branchmerge.cli import options
from branchmerge.errors import RecipeError, shown

COMMA = re.compile(r",(?![^(]*\))")
"""A comma that is in no parentheses."""
GRADIENT = re.compile(r"gradient\((.*)\)")


@click.command("fuse", short_help="Fuse checkpoints into one.")
@click.argument("checkpoints", nargs=-1, required=True, metavar="CHECKPOINT CHECKPOINT...")
@click.option("--method", default="arcee", metavar="NAME", help="How; `branchmerge methods` lists them (arcee).")
@click.option("--base", metavar="CHECKPOINT", help="The checkpoint that the branches grew from.")
@click.option("-p", "values", multiple=True, metavar="NAME=VALUE", help="A parameter: one value for all, or a,b,…")
@click.option("-o", "--out", metavar="DIR", help="Where the result goes (a-b-METHOD in the working directory).")
@options.shared
def command(
    checkpoints: tuple[str, ...],
    method: str,
    base: str | None,
    values: tuple[str, ...],
    out: str | None,
    **flags: Any,
) -> int:
    """Fuse CHECKPOINTs, each a directory or a name of the hub (`org/name[@revision]`), into one written to DIR.

    For a method of two models (arcee, slerp) the first is the base unless --base names another of them; a method on
    deltas (ties, dare_ties …) wants --base. Arcee Fusion of more than two goes from the right: `fuse code science math`
    is arcee(code, arcee(science, math)), with no intermediate on disk. `-p weight=0.6,0.4` gives each branch its value,
    `-p "t=gradient(0,0.5,1)"` one that changes over the layers.
    The same command again resumes an interrupted run.
    """
    from branchmerge.merge import functions
    from branchmerge.merge.recipe import default_out, fused

    known = functions.methods()
    recipe = fused(checkpoints, method=method, base=base, parameters=parameters(values), known=known)
    return options.run(recipe, out or default_out(checkpoints, method, known), options.Flags(**flags))


def parameters(values: tuple[str, ...]) -> dict[str, Any]:
    """Parameters from `NAME=VALUE`, a comma list being one value a branch; values are read as in a recipe."""
    found: dict[str, Any] = {}
    for said in values:
        name, equals, value = said.partition("=")
        if not name or not equals:
            raise RecipeError(f"`-p {shown(said)}` sets nothing", hint="a parameter is written `-p weight=0.5`")
        if name in found:
            raise RecipeError(f"`-p {shown(name)}` is given twice", hint="one value a branch is `-p weight=0.6,0.4`")
        parts = [_value(part.strip()) for part in COMMA.split(value)]
        found[name] = parts if len(parts) > 1 else parts[0]
    return found


def _value(said: str) -> Any:
    """A value as in a recipe, or `gradient(0,0.5,1)`."""
    from branchmerge.merge.recipe import gradient
    from branchmerge.merge.yaml import scalar

    match = GRADIENT.fullmatch(said)
    return gradient(*(scalar(part.strip()) for part in match[1].split(","))) if match else scalar(said)
