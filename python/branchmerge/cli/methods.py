"""`branchmerge methods`: the list of merge methods, or one method's page; both are read from the specs."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import rich_click as click

from branchmerge.cli import terminal
from branchmerge.errors import RecipeError, shown

if TYPE_CHECKING:
    from branchmerge.merge.specs import Method, Parameter

WIDTH = 100


@click.command("methods", short_help="List the merge methods, or show one method's page.")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="As JSON on standard output, nothing else there.")
@click.option("--verbose", is_flag=True, help="Tracebacks of errors.")
def command(name: str | None, *, as_json: bool, verbose: bool) -> int:
    """List the merge methods; with NAME, tell what that method does and takes."""
    from branchmerge.merge import functions
    from branchmerge.merge.results import as_data
    from branchmerge.merge.specs import named

    del verbose
    known = functions.methods()
    if name is None:
        if as_json:
            terminal.say_json([as_data(method) for method in known.values()])
        else:
            terminal.say(terminal.table([[method.name, method.sentence] for method in known.values()], indent=""))
        return 0
    method = named(known, name)
    if method is None:
        raise RecipeError(f"unknown method `{shown(name)}`", hint=f"known are {', '.join(known)}")
    if as_json:
        terminal.say_json(as_data(method))
    else:
        terminal.say(page(method))
    return 0


def page(method: Method) -> str:
    """A method's page."""
    also = f" (also {', '.join(method.aliases)})" if method.aliases else ""
    parts = [f"{method.name}{also}", _filled(method.sentence)]
    if method.formula:
        parts.append(textwrap.indent(method.formula, "    "))
    facts = [["branches", _branches(method)], ["base", _base(method)], ["bits", f"the same {method.bits}"]]
    if method.paper:
        facts.append(["source", method.paper])
    parts.append(terminal.table(facts))
    if method.parameters:
        parts.append("Parameters:\n" + "\n".join(_parameter(one) for one in method.parameters.values()))
    if method.differences:
        parts.append("Where it differs from mergekit:\n" + "\n".join(_bullet(one) for one in method.differences))
    return "\n\n".join(parts)


def _branches(method: Method) -> str:
    fewest, most = method.branches
    count = str(fewest) if most == fewest else f"{fewest} or more" if most is None else f"{fewest} to {most}"
    return f"{count}; more are fused from the right" if method.folds else count


def _base(method: Method) -> str:
    return {
        "optional": "may be named: then the method works on what the branches changed, else on the models themselves",
        "required": "needed: the method works on what the branches changed",
        "first": "the first checkpoint, unless another of them is named",
        "none": "takes no part",
    }[method.base]


def _parameter(one: Parameter) -> str:
    takes = " or ".join(one.choices) if one.type == "choice" else one.type.replace("_", " ")
    if one.type == "float_or_choice":
        takes = " or ".join(["float", *one.choices])
    if one.range is not None:
        low, high = one.range
        takes += f", {'any' if low is None else f'{low:g}'} to {'any' if high is None else f'{high:g}'}"
    default = "required" if one.required else f"default {str(one.default).lower()}"
    per = ", one a branch" if one.per == "model" else ""
    return f"  {one.name}: {takes}; {default}{per}\n{_filled(one.help, indent='      ')}"


def _bullet(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="  - ", subsequent_indent="    ")


def _filled(text: str, *, indent: str = "") -> str:
    return textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent)
