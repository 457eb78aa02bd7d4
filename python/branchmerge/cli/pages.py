"""A method's page, as plain text for the terminal and as Markdown for `docs/methods.md`; both from its spec."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from branchmerge.cli import terminal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from branchmerge.merge.specs import Method, Parameter

WIDTH = 100
BITS = {
    "everywhere": "the same on every machine",
    "machine": "the same for any number of threads on one kind of processor, which the manifest names",
}
HEAD = """# The merge methods

Made from the methods' own specs by `branchmerge methods --markdown`. `docs/choosing.md` helps to choose one.

In the formulas b is the base, x a branch (or a model), w its weight, n the number of elements or branches, and y the
result. The examples are computed by the engine: two rows of four numbers. Memory is what a method takes for a matrix of
4096 by 4096 with two branches and one worker, besides what is read.
"""


def plain(method: Method) -> str:
    """A method's page for the terminal."""
    also = f" (also {', '.join(method.aliases)})" if method.aliases else ""
    parts = [f"{method.name}{also}", _filled(_about(method)), _filled(method.formula, indent="    ")]
    facts = [
        ["use it when", method.when],
        ["do not when", method.avoid],
        ["branches", _branches(method)],
        ["base", _base(method)],
        ["needs", _needs(method)],
        ["cost", _cost(method)],
        ["bits", BITS[method.bits]],
        ["source", method.paper],
    ]
    parts.append("\n".join(_fact(name, text) for name, text in facts if text))
    if method.parameters:
        parts.append("Parameters:\n" + "\n".join(_parameter(one) for one in method.parameters.values()))
    parts.append(f"Example, {_settings(method)}:\n" + terminal.table(_example(method)))
    if method.differences:
        parts.append("Where it differs from mergekit:\n" + "\n".join(_bullet(one) for one in method.differences))
    return "\n\n".join(parts)


def markdown(method: Method) -> str:
    """A method's page as Markdown."""
    also = f" (also {', '.join(f'`{alias}`' for alias in method.aliases)})" if method.aliases else ""
    parts = [f"## {method.name}", f"{_about(method)}{also}", f"> {method.formula}"]
    facts = [
        ("Use it when", method.when),
        ("Do not when", method.avoid),
        ("Branches", _branches(method)),
        ("Base", _base(method)),
        ("Needs", _needs(method)),
        ("Cost", _cost(method)),
        ("Bits", BITS[method.bits]),
        ("Source", method.paper),
    ]
    parts.append("\n".join(f"- **{name}**: {text}" for name, text in facts if text))
    if method.parameters:
        rows = [[f"`{one.name}`", *_takes(one), one.help] for one in method.parameters.values()]
        parts.append(_table([["parameter", "takes", "default", "meaning"], *rows]))
    parts.append(f"Example, {_settings(method)}:")
    (_, *columns), *rows = _example(method)
    parts.append(_table([["", *columns], *rows]))
    if method.differences:
        parts.append("Where it differs from mergekit:\n\n" + "\n".join(f"- {one}" for one in method.differences))
    return "\n\n".join(parts)


def all_markdown(methods: Mapping[str, Method]) -> str:
    """All pages, with a table of contents."""
    contents = _table([["method", "what it does"], *([f"[{m.name}](#{m.name})", m.sentence] for m in methods.values())])
    return "\n".join([HEAD, contents, "", "\n\n".join(markdown(method) for method in methods.values())])


def _about(method: Method) -> str:
    return f"{method.sentence[:1].upper()}{method.sentence[1:]}. {method.detail}"


def _branches(method: Method) -> str:
    fewest, most = method.branches
    count = str(fewest) if most == fewest else f"{fewest} or more" if most is None else f"{fewest} to {most}"
    return f"{count}; more are fused from the right" if method.folds else count


def _base(method: Method) -> str:
    return {
        "required": "needed",
        "optional": "may be named: then the method works on what the branches changed, else on the models themselves",
        "first": "the first checkpoint, unless another of them is named",
        "none": "takes no part",
    }[method.base]


def _cost(method: Method) -> str:
    passes, memory = method.cost["passes"], method.cost["memory"]
    reads = {1: "once", 2: "twice", 3: "three times"}.get(passes, f"{passes} times")
    return f"reads the branches {reads}" + (f"; takes {memory / (1 << 20):.1f} MiB" if memory else "")


def _needs(method: Method) -> str:
    return "a file a branch, from `branchmerge grams`" if method.grams else ""


def _settings(method: Method) -> str:
    def said(value: object) -> str:
        if isinstance(value, list):
            return ",".join(said(one) for one in value)
        return f"{value:g}" if isinstance(value, float | int) else str(value)

    inputs = ["a with large inputs in columns 1 and 2, b in 3 and 4"] if method.grams else []
    return ", ".join([*(f"{name} {said(value)}" for name, value in method.example.items()), *inputs]) or "as it is"


def _example(method: Method) -> list[list[str]]:
    """A row a model, and the result."""
    from branchmerge.merge.example import worked

    rows = [[name, *(f"{number:+.4f}" for number in numbers)] for name, numbers in worked(method).items()]
    return [["", *(f"{row},{column}" for row in (1, 2) for column in (1, 2, 3, 4))], *rows]


def _takes(one: Parameter) -> tuple[str, str]:
    """What a parameter may be, and what it is where nothing is said."""
    takes = " or ".join(one.choices) if one.type == "choice" else one.type.replace("_", " ")
    if one.type == "bool_or_choice":
        takes = " or ".join(["true", "false", *one.choices])
    if one.range is not None:
        low, high = one.range
        takes += f", {'any' if low is None else f'{low:g}'} to {'any' if high is None else f'{high:g}'}"
    per = ", one a branch" if one.per == "model" else ""
    return takes + per, "required" if one.required else str(one.default).lower()


def _parameter(one: Parameter) -> str:
    takes, default = _takes(one)
    default = default if one.required else f"default {default}"
    return f"  {one.name}: {takes}; {default}\n{_filled(one.help, indent='      ')}"


def _fact(name: str, text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=f"  {name:<12}", subsequent_indent=" " * 14)


def _bullet(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="  - ", subsequent_indent="    ")


def _filled(text: str, *, indent: str = "") -> str:
    return textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent)


def _table(rows: list[list[str]]) -> str:
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
