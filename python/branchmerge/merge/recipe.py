"""What the user said: flags and keywords become the recipe that a YAML file would have been.

There is one recipe language, mergekit's, extended as the documentation says. Whatever the front end, a `Recipe` holds
it as plain data, with the line of each place where it came from a file. The engine checks it; nothing is checked here
but what a recipe could not hold.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from branchmerge.errors import Problem, RecipeError, from_problems, shown
from branchmerge.hub import names
from branchmerge.merge.specs import Method, named

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

UNITS = {
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)},
}
SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]*)?|\.[0-9]+)[ ]?([A-Za-z]*)")
SIZES = "sizes are written 8GiB, 500MB, 1.5 GB or a number of bytes"
MODIFIERS = {"auto_weight", "lines"}
"""Keys of a recipe that go with any method, and are given to `fuse` like its parameters."""
BESIDE = ("importance", "grams")
"""Files that say something of each branch; a recipe has them beside its model."""
LONGEST_STEM = 120
"""Bytes of the longest name of a result that is made from its inputs' names."""


class Gradient(tuple[float, ...]):
    """Values of a parameter that change over the layers."""

    __slots__ = ()


def gradient(*values: float) -> Gradient:
    """A parameter's values from the first layer to the last, in even steps; what is in no layer has the first one."""
    if not values:
        raise RecipeError("a gradient has no values", hint="write `gradient(0, 0.5, 1)`")
    return Gradient(values)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe as plain data, and where each place of it stands."""

    content: dict[str, Any]
    file: str | None = None
    lines: Mapping[str, int] = field(default_factory=dict)
    """Lines by place: `models[1].parameters.weight` → 9."""
    problems: tuple[Problem, ...] = ()
    """What was wrong with the file itself, where the rest could be read."""

    def located(self, problem: Problem) -> Problem:
        """The problem with the file and line of its place."""
        if self.file is None:
            return problem
        return replace(problem, file=self.file, line=problem.line or self.line(problem.at))

    def line(self, at: str | None) -> int | None:
        """The line of a place, or of the nearest place around it."""
        while at:
            if at in self.lines:
                return self.lines[at]
            at = at[: max(at.rfind("."), at.rfind("["), 0)]
        return None

    def having(self, keys: Mapping[str, Any]) -> Recipe:
        """The recipe with these keys set; their lines in the file no longer count."""
        lines = {at: line for at, line in self.lines.items() if re.split(r"[.\[]", at, maxsplit=1)[0] not in keys}
        return replace(self, content={**self.content, **keys}, lines=lines)


def from_data(content: Mapping[str, Any]) -> Recipe:
    """The recipe in a mapping, as JSON would hold it; raises `RecipeError` with every place that it could not."""
    problems: list[Problem] = []
    data = _plain(content, "", problems)
    if problems:
        raise from_problems(problems)
    return Recipe(data)


def fused(
    checkpoints: Sequence[Any],
    *,
    method: str,
    base: Any | None,
    parameters: Mapping[str, Any],
    known: Mapping[str, Method],
) -> Recipe:
    """The recipe of `fuse`: the checkpoints in order, values for all or one a branch, the base by the method's rule."""
    spec = named(known, method)
    models: list[dict[str, Any]] = [{"model": _checkpoint(one)} for one in checkpoints]
    content: dict[str, Any] = {"merge_method": method, "models": models}
    chosen = None if base is None else _checkpoint(base)
    if chosen is None and spec is not None and models:
        if spec.base == "required":
            hint = f"name it with `--base CHECKPOINT` (`base=` in Python); `branchmerge methods {spec.name}` tells more"
            raise RecipeError(f"`{spec.name}` works on what the branches changed, so it needs their base", hint=hint)
        if spec.base == "first":
            chosen = models[0]["model"]
    branches = [model for model in models if spec is None or spec.base == "none" or model["model"] != chosen]
    modifiers = {name: value for name, value in parameters.items() if name in MODIFIERS}
    for name in BESIDE:
        _lay_beside(name, parameters.get(name), branches)
    others = {name: value for name, value in parameters.items() if name not in {*MODIFIERS, *BESIDE}}
    shared = _spread(others, branches, spec)
    if chosen is not None:
        content["base_model"] = chosen
        # Of two models the base is the left one, wherever it was listed.
        models.sort(key=lambda model: spec is not None and spec.base == "first" and model["model"] != chosen)
    if shared:
        content["parameters"] = shared
    ends = modifiers.get("lines")
    if isinstance(ends, list | tuple) and len(ends) == 2:  # noqa: PLR2004 (the first layer's and the last's)
        modifiers["lines"] = dict(zip(("first", "last"), ends, strict=True))
    return from_data({**content, **modifiers})


def allowing(rules: Mapping[str, str] | Iterable[str]) -> dict[str, str]:
    """`allow` rules, as a mapping or written `RULE=VALUE`."""
    if hasattr(rules, "items"):
        return dict(rules.items())
    found: dict[str, str] = {}
    for rule in [rules] if isinstance(rules, str) else rules:
        name, equals, value = rule.partition("=")
        if not equals or not name or not value:
            raise RecipeError(f"`{shown(rule)}` allows nothing", hint="a rule is written `missing=base`")
        found[name] = value
    return found


def size(said: str | int, name: str) -> int:
    """Bytes from `8GiB`, `500MB`, `1.5 GB` or a number."""
    if isinstance(said, bool) or not isinstance(said, str | int):
        raise RecipeError(f"`{name}` is {said!r}, expected a size", hint=SIZES)
    count = _bytes(said) if isinstance(said, str) else said
    if count is None:
        raise RecipeError(f"`{name}` is `{shown(str(said))}`, expected a size", hint=SIZES)
    if not 0 < count < 1 << 63:
        raise RecipeError(f"`{name}` is {count} bytes, expected a size above 0", hint=SIZES)
    return count


def default_out(checkpoints: Sequence[Any], method: str, known: Mapping[str, Method]) -> str:
    """`a-b-arcee`: where a result goes that was given no name."""
    names = [_label(one) for one in checkpoints]
    spec = named(known, method)
    end = method if spec is None else spec.name
    stem = "-".join([*names, end])
    if len(stem.encode()) > LONGEST_STEM:
        stem = f"{names[0].encode()[:80].decode(errors='ignore')}-and-{len(names) - 1}-more-{end}"
    return stem


def _bytes(said: str) -> int | None:
    match = SIZE.fullmatch(said.strip())
    if match is None:
        return None
    number, unit = match[1], match[2].lower()
    if not unit:
        return int(number) if number.isdigit() else None
    factor = UNITS.get(unit)
    return None if factor is None else round(float(number) * factor)


def _spread(parameters: Mapping[str, Any], branches: list[dict[str, Any]], spec: Method | None) -> dict[str, Any]:
    """Give each branch its value of a list; what is one value for all comes back."""
    shared: dict[str, Any] = {}
    for name, value in parameters.items():
        if isinstance(value, Gradient) or not isinstance(value, list | tuple):
            shared[name] = value
            continue
        known = spec.parameters.get(name) if spec else None
        if known is not None and known.per == "global":
            raise RecipeError(f"`{name}` takes one value for the whole merge, found {len(value)}")
        if len(value) != len(branches):
            hint = f"give one value for all, or one a branch: the base is none, which leaves {len(branches)}"
            raise RecipeError(f"`{shown(name)}` has {len(value)} values, expected {len(branches)}", hint=hint)
        for branch, one in zip(branches, value, strict=True):
            branch.setdefault("parameters", {})[name] = one
    return shared


def _lay_beside(name: str, files: Any, branches: list[dict[str, Any]]) -> None:
    """Give each branch its file."""
    if files is None:
        return
    said = list(files) if isinstance(files, list | tuple) else [files]
    if len(said) != len(branches):
        hint = f"give one a branch: the base is none, which leaves {len(branches)}"
        raise RecipeError(f"`{name}` names {len(said)} files, expected {len(branches)}", hint=hint)
    for branch, file in zip(branches, said, strict=True):
        branch[name] = _checkpoint(file)


def _checkpoint(said: Any) -> Any:
    """A path as a text, a nested recipe as it is."""
    if hasattr(said, "items"):
        return said
    return os.fsdecode(os.fspath(said))


def _label(said: Any) -> str:
    if hasattr(said, "items"):
        return "merge"
    path = os.fsdecode(os.fspath(said))
    parts = names.parts(path)
    if parts:
        return "+".join(part.name.repo.split("/")[1] if part.name else Path(part.said).name for part in parts)
    name = Path(path).name
    return Path(path).resolve().name or "root" if name in {"", ".."} else name


def _plain(value: Any, at: str, problems: list[Problem]) -> Any:
    """`value` as JSON holds it; what it cannot hold is noted."""
    if hasattr(value, "items"):
        return {str(key): _plain(inner, f"{at}.{key}" if at else str(key), problems) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, f"{at}[{index}]", problems) for index, inner in enumerate(value)]
    if isinstance(value, os.PathLike):
        value = os.fsdecode(value)
    if isinstance(value, str):
        if value.isascii() or _is_text(value):
            return value
        problems.append(Problem(f"`{at}`: `{shown(value)}` is not UTF-8", at=at))
    elif value is None or isinstance(value, bool | int):
        return value
    elif isinstance(value, float) or hasattr(value, "__float__"):
        if math.isfinite(value):
            return float(value)
        problems.append(Problem(f"`{at}` is {float(value)}, expected a finite number", at=at))
    else:
        problems.append(Problem(f"`{at}` is a {type(value).__name__}, which no recipe holds", at=at))
    return None


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
