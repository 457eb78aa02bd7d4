"""Which rules fit the models of a recipe: their methods see the same base and branches as its own."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from branchmerge.merge.schema.methods import needs_base
from branchmerge.merge.schema.parameters import COPY, named
from branchmerge.merge.schema.places import Place, by_base, on_all
from branchmerge.merge.schema.values import Schema, said

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from branchmerge.merge.specs import Method

Ends = tuple[int, int | None]


def conditions(known: Mapping[str, Method]) -> list[Schema]:
    """What a recipe with rules must be like, by its method: such as take a base, and such as take none."""
    groups = {takes: [one for one in known.values() if (one.base != "none") == takes] for takes in (True, False)}
    return [
        {"if": {**named(group), "allOf": [said("rules")]}, "then": {"allOf": condition(known, takes_base=takes)}}
        for takes, group in groups.items()
    ]


def condition(known: Mapping[str, Method], *, takes_base: bool) -> list[Schema]:
    """What a recipe with rules must be like, whose method takes a base or none."""
    need = [method for method in known.values() if method.base in {"required", "first"}]
    base = by_base(based={}, bare=needs_base(copied=False)) if takes_base else {"not": {}}
    found: list[Schema] = [{"if": has(need), "then": base}]
    for ends, group in counted(known).items():
        found.append({"if": has(group), "then": on_all(partial(fits, ends=ends, takes_base=takes_base))})
    return found


def counted(known: Mapping[str, Method]) -> dict[Ends, list[Method]]:
    """Methods that do not take any number of models, by the numbers they take."""
    found: dict[Ends, list[Method]] = {}
    for method in known.values():
        if method.branches != (1, None) and method.name != COPY:
            found.setdefault(method.branches, []).append(method)
    return found


def fits(place: Place, *, ends: Ends, takes_base: bool) -> Schema:
    """A list of as many models as a rule's method takes."""
    fewest, most = ends
    return {"minItems": fewest, **({} if most is None else {"maxItems": most + (place.based and takes_base)})}


def has(methods: Iterable[Method]) -> Schema:
    """A recipe with a rule of one of these methods."""
    return {"properties": {"rules": {"contains": named(methods)}}}
