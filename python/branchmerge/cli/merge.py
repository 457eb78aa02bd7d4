"""`branchmerge merge`: a recipe file becomes a checkpoint."""

from __future__ import annotations

from typing import Any

import rich_click as click

from branchmerge.cli import mergekit, options


@click.command("merge", short_help="Carry out a recipe; mergekit's YAML works unchanged.")
@click.argument("recipe", metavar="RECIPE.yml")
@click.argument("out", metavar="OUT")
@options.shared
@mergekit.accepted
def command(recipe: str, out: str, **flags: Any) -> int:
    """Carry out RECIPE.yml, written in mergekit's language, into the directory OUT.

    Models are directories, relative to the working directory, or names of the hub (`org/name[@revision]`). Every
    problem is told before anything is written, and before any weights are fetched. The same command again resumes an
    interrupted run. The flags of mergekit-yaml are taken too.
    """
    from branchmerge.merge import functions

    return options.run(functions.read_recipe(recipe), out, options.Flags(**mergekit.understood(flags)))
