"""The types of each method's parameters, wherever a recipe says them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from branchmerge.merge.schema.places import COPIED, says
from branchmerge.merge.schema.values import Schema, kind, ref, said

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from branchmerge.merge.specs import Method, Parameter

DEAD = ("int8_mask", "residual_weight")
"""Parameters that do nothing, as in mergekit."""
COPY = "passthrough"
"""The method of a module with one model."""


def definitions(known: Mapping[str, Method]) -> Schema:
    """What the parameters of each method may be, and the names of all."""
    names = {name for method in known.values() for name in method.parameters} | set(DEAD)
    found: Schema = {"parameter_name": {"pattern": f"^({'|'.join(map(re.escape, sorted(names)))})$"}}
    for method in known.values():
        found |= types(method)
    return found


def named(methods: Iterable[Method]) -> Schema:
    """A merge or a rule with one of these methods."""
    words = [word for method in methods for word in (method.name, *method.aliases)]
    return {"required": ["merge_method"], "properties": {"merge_method": {"enum": words}}}


def types(method: Method) -> Schema:
    """What the parameters of a method may be: for all models, for one of them, and wherever a merge has them."""
    settings = {one.name: parameter(one) for one in method.parameters.values()}
    own = {one.name: settings[one.name] for one in method.parameters.values() if one.per == "model"}
    shared = "|".join(re.escape(name) for name in settings if name not in own)
    refused: Schema = {"patternProperties": {f"^({shared})$": False}} if shared else {}
    common, each = ref(f"{method.name}_parameters"), {"items": ref(f"{method.name}_model")}
    slices = {"items": {"properties": {"parameters": common, "sources": each}}}
    return {
        f"{method.name}_parameters": {"properties": settings},
        f"{method.name}_model": {"properties": {"parameters": {"properties": own, **refused}}},
        method.name: {"properties": {"parameters": common, "models": each, "slices": slices}},
    }


def parameter(one: Parameter) -> Schema:
    """What a parameter may be, and what it means."""
    default = {} if one.default is None else {"default": one.default}
    return {"description": f"{one.help[:1].upper()}{one.help[1:]}.", **default, **ref(f"{kind(one)}_setting")}


def of_recipe(known: Mapping[str, Method]) -> list[Schema]:
    """The types that a recipe's method asks for, in its modules too."""
    return [*({"if": named([method]), "then": with_modules(method)} for method in known.values()), copied_modules()]


def of_inner(known: Mapping[str, Method]) -> list[Schema]:
    """The types that the method of a merge asks for which stands in place of a model."""
    return [{"if": named([method]), "then": ref(method.name)} for method in known.values()]


def of_rule(known: Mapping[str, Method]) -> list[Schema]:
    """The types that a rule's method asks for, and what must be said: beside the rule alone."""
    found = []
    for method in known.values():
        needed = [says(one.name) for one in method.parameters.values() if one.required]
        types: Schema = {"properties": {"parameters": ref(f"{method.name}_parameters")}}
        found.append({"if": named([method]), "then": {"allOf": [types, *needed]} if needed else types})
    return found


def with_modules(method: Method) -> Schema:
    """The types of a recipe and its modules, but for those that are copied."""
    if method.name == COPY:
        return {**ref(COPY), "properties": {"modules": {"additionalProperties": ref(COPY)}}}
    modules = {"additionalProperties": {"if": COPIED, "else": ref(method.name)}}
    all_copied = {
        "required": ["modules"],
        "properties": {"modules": {"type": "object", "additionalProperties": COPIED}},
    }
    return {"if": all_copied, "else": ref(method.name), "properties": {"modules": modules}}


def copied_modules() -> Schema:
    """Where no base is named, modules with one model are copied; with a base that depends on which model it is."""
    some = {"type": "object", "not": {"additionalProperties": {"not": COPIED}}}
    return {
        "if": said("base_model"),
        "else": {
            "properties": {"modules": {"additionalProperties": {"if": COPIED, "then": ref(COPY)}}},
            "if": {"required": ["modules"], "properties": {"modules": some}},
            "then": {"properties": {"parameters": ref(f"{COPY}_parameters")}},
        },
    }
