"""Where a recipe lists models, and where it says parameters for them: at the top, in slices, in modules.

A condition on lists of models is written once, for a list with a base and one without; `everywhere` lays it on all
lists of a recipe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from branchmerge.merge.schema.values import Schema, said

if TYPE_CHECKING:
    from collections.abc import Callable

ALONE: Schema = {"maxItems": 1}
"""One model: in a module it is copied, whatever the method of the others."""
COPIED: Schema = {
    "properties": {"models": ALONE, "slices": {"items": {"properties": {"sources": ALONE}}}},
}
"""A module all of which is copied."""


@dataclass(frozen=True, slots=True)
class Place:
    """One list of models."""

    key: str
    """`models` or `sources`."""
    based: bool
    """Whether a base is named for it."""
    module: bool
    """Whether it stands in a module."""


def everywhere(check: Callable[[Place], Schema], *, based: bool, level: Schema | None = None) -> Schema:
    """`check` of every list of models of a recipe whose base is named at its top, or not.

    With `level` a slice or a module may fulfil that instead, for all its lists.
    """

    def part(*, module: bool) -> Schema:
        sources = {one: {"properties": {"sources": check(Place("sources", one, module))}} for one in (True, False)}
        slices = sources[True] if based else {"if": said("base_model"), "then": sources[True], "else": sources[False]}
        return {"models": check(Place("models", based, module)), "slices": {"items": either(level, slices)}}

    modules = {"additionalProperties": either(level, {"properties": part(module=True)})}
    return {"properties": {**part(module=False), "modules": modules}}


def by_base(*, based: Schema, bare: Schema) -> Schema:
    """A condition on recipes whose top names a base, and one on the others."""
    return {"if": said("base_model"), "then": based, "else": bare}


def on_all(check: Callable[[Place], Schema], *, level: Schema | None = None) -> Schema:
    """`everywhere`, whether the top names a base or not."""
    found = {one: everywhere(check, based=one, level=level) for one in (True, False)}
    return by_base(based=found[True], bare=found[False])


def either(level: Schema | None, rest: Schema) -> Schema:
    """One of the two, where there are two."""
    return rest if level is None else {"anyOf": [level, rest]}


def says(name: str) -> Schema:
    """A mapping whose `parameters` have that name."""
    return {
        "required": ["parameters"],
        "properties": {"parameters": {"type": "object", "required": [name]}},
    }


def none_with(one: Schema) -> Schema:
    """A list in which none is like this."""
    return {"items": {"not": one}}


def few_with(one: Schema, few: int) -> Schema:
    """A list in which none is like this; or where there may be a base, at most one that is taken for it.

    Which of several models is the base a schema cannot tell; a single one is taken for a branch.
    """
    none = none_with(one)
    return {"if": {"minItems": 2}, "then": at_most(one, few), "else": none} if few else none


def few_without(one: Schema, few: int) -> Schema:
    """A list in which all are like this, but for one that is taken for the base."""
    every: Schema = {"items": one}
    return {"if": {"minItems": 2}, "then": at_most({"not": one}, few), "else": every} if few else every


def at_most(one: Schema, few: int) -> Schema:
    """A list in which so many are like this, or fewer."""
    return {"contains": one, "minContains": 0, "maxContains": few}
