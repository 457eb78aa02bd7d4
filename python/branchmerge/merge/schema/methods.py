"""What each method asks of the recipe around its parameters: a base or none, how many models, what stands beside them.

Methods that ask the same of one thing share a condition.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

from branchmerge.merge.schema.parameters import named
from branchmerge.merge.schema.places import (
    ALONE,
    Place,
    by_base,
    everywhere,
    few_with,
    few_without,
    none_with,
    on_all,
    says,
)
from branchmerge.merge.schema.values import Schema, said

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from branchmerge.merge.specs import Method

IMPORTANCE, GRAMS = said("importance"), said("grams")


def conditions(known: Mapping[str, Method]) -> list[Schema]:
    """What a merge must be like, by its method."""
    found = [one for make in (base, count, grams, importance, auto_weight) for one in grouped(known, make)]
    for name in sorted({one.name for method in known.values() for one in method.parameters.values() if one.required}):
        found += grouped(known, partial(needed, name=name))
    return [*found, by_base(based={}, bare=everywhere(copied, based=False))]


def grouped(known: Mapping[str, Method], make: Callable[[Method], Schema]) -> list[Schema]:
    """A condition for each group of methods of which the same is made."""
    groups: dict[str, tuple[Schema, list[Method]]] = {}
    for method in known.values():
        asked = make(method)
        groups.setdefault(json.dumps(asked), (asked, []))[1].append(method)
    return [{"if": named(those), "then": asked} for asked, those in groups.values() if asked]


def takes_base(method: Method) -> bool:
    """Whether a base that is named is no branch."""
    return method.base != "none"


def base(method: Method) -> Schema:
    """A base where the method needs one, or where `lines` scales what is changed in it."""
    if not takes_base(method):
        return {"properties": {"lines": {"type": "null"}}}
    lines = {"if": said("lines"), "then": needs_base(copied=False)}
    bare = lines if method.base == "optional" else {"allOf": [needs_base(copied=True), lines]}
    return by_base(based={}, bare=bare)


def needs_base(*, copied: bool) -> Schema:
    """A base for every list of models where the top names none; a module that is copied may do without."""
    few: Schema = ALONE if copied else {"maxItems": 0}
    modules = everywhere(lambda place: few if place.module and not place.based else {}, based=False)
    slices = {"properties": {"slices": {"items": said("base_model")}}}
    return {"if": said("models"), "then": said("base_model"), "allOf": [slices, modules]}


def lists(method: Method, check: Callable[[Place, int], Schema]) -> Schema:
    """A condition on every list of models; told how many of them may be the base, and so no branch."""
    return on_all(lambda place: check(place, int(place.based and takes_base(method))))


def unless_copied(place: Place, schema: Schema) -> Schema:
    """A condition on a list, but not on a single model of a module."""
    return {"anyOf": [ALONE, schema]} if place.module else schema


def copied(place: Place) -> Schema:
    """Nothing stands beside what is copied; where there is a base that depends on which model it is."""
    nothing = {"allOf": [none_with(IMPORTANCE), none_with(GRAMS)]}
    return {"if": ALONE, "then": nothing} if place.module and not place.based else {}


def count(method: Method) -> Schema:
    """How many models there are."""
    fewest, most = method.branches

    def check(place: Place, bases: int) -> Schema:
        if method.base in {"required", "first"} and not bases:
            # That the base is missing is the one thing to tell.
            return {}
        bounded = most is not None and not (method.folds and place.key == "models")
        return unless_copied(place, {"minItems": fewest, **({"maxItems": (most or 0) + bases} if bounded else {})})

    return lists(method, check)


def grams(method: Method) -> Schema:
    """Gram matrices beside all branches, or none; what stands beside the base is of no use, and so refused."""

    def check(place: Place, bases: int) -> Schema:
        return unless_copied(place, few_without(GRAMS, bases) if method.grams else none_with(GRAMS))

    return lists(method, check)


def importance(method: Method) -> Schema:
    """Importances beside all branches of a method that can weigh them, or beside none."""
    mean = not takes_base(method) and method.grain == "element" and "weight" in method.parameters

    def check(_: Place, bases: int) -> Schema:
        weighs = bool(bases) if method.space == "delta" else mean
        none = none_with(IMPORTANCE)
        return {"anyOf": [none, few_without(IMPORTANCE, bases)]} if weighs else none

    return lists(method, check)


def needed(method: Method, *, name: str) -> Schema:
    """A parameter that must be said: for all models, or where each may have its own beside each of them."""
    parameter = method.parameters.get(name)
    if parameter is None or not parameter.required:
        return {}
    own = parameter.per == "model"

    def check(place: Place) -> Schema:
        bases = int(place.based and takes_base(method))
        return unless_copied(place, few_without(says(name), bases) if own else {"maxItems": 0})

    need: Schema = {"anyOf": [says(name), on_all(check, level=says(name))]}
    if not own:
        need = {"if": said("models"), "then": says(name), "else": need}
    return {"if": said("auto_weight"), "else": need} if name == "weight" else need


def auto_weight(method: Method) -> Schema:
    """Weights that are found are not said, and there must be such."""
    if "weight" not in method.parameters or method.parameters["weight"].per != "model":
        return {"properties": {"auto_weight": {"type": "null"}}}

    def check(place: Place, bases: int) -> Schema:
        # What is copied has no weight.
        several = {"minItems": 2} if place.module and not place.based else {}
        return {"allOf": [few_with(says("weight"), bases), none_with(IMPORTANCE)], **several}

    unsaid: Schema = {"not": says("weight")}
    slices = {"slices": {"items": unsaid}}
    levels = {**unsaid, "properties": {**slices, "modules": {"additionalProperties": {**unsaid, "properties": slices}}}}
    found = {"if": said("auto_weight"), "then": {"allOf": [levels, lists(method, check)]}}
    return {"allOf": [found, metagpt(method)]}


def metagpt(method: Method) -> Schema:
    """It weighs deltas."""
    if not takes_base(method):
        return {"properties": {"auto_weight": {"not": {"const": "metagpt"}}}}
    chosen = {"required": ["auto_weight"], "properties": {"auto_weight": {"const": "metagpt"}}}
    return {"if": {"allOf": [chosen, {"not": said("base_model")}]}, "then": needs_base(copied=False)}
