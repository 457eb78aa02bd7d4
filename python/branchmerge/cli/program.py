"""The group of commands: `branchmerge --help`, and the way to each command's own file."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING

import rich_click as click

from branchmerge.cli import discard
from branchmerge.errors import RecipeError, shown
from branchmerge.merge.engine import VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = ("fuse", "merge", "plan", "methods", "grams", "verify", "push", "demo", "schema")
"""Each is a file beside this one with a `command` in it."""


class Program(click.RichGroup):
    """Commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        """The commands in the order a newcomer needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command in `cmd_name`'s file."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"branchmerge.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that was asked for; a wrong name is answered with the nearest right one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"commands are {', '.join(COMMANDS)}"
            raise RecipeError(f"no such command `{shown(args[0])}`", hint=hint)
        return super().resolve_command(ctx, args)


@click.group(
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit status: 0 done, 1 failed while working, 2 the command or the recipe is wrong, 130 interrupted.",
)
@click.version_option(VERSION, message="branchmerge %(version)s")
def program() -> None:
    """Fuse fine-tuned branches of a language model into one checkpoint: exact, streamed, resumable."""


def run(arguments: Sequence[str]) -> int:
    """Run one command; errors are raised, the exit status comes back."""
    try:
        status = program.main(args=list(arguments), prog_name="branchmerge", standalone_mode=False)
    except SystemExit:
        # click ends so in one case only: whoever read the help went away.
        discard(sys.stdout)
        return 0
    return status if isinstance(status, int) else 0
