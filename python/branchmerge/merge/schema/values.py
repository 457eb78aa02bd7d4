"""What a value of a recipe may be: paths, dtypes, and whatever a parameter takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from branchmerge.merge.specs import Method, Parameter

Schema = dict[str, Any]

PATH: Schema = {"type": "string", "pattern": "^[^\\u0000]+$"}
FILTER: Schema = {"type": "string", "minLength": 1}
NUMBER = r"^\s*[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\s*$"
"""A number written as a text. Its range is the engine's to check."""
FLAG: Schema = {
    "type": ["boolean", "number", "string"],
    "minimum": 0,
    "maximum": 1,
    "multipleOf": 1,
    "pattern": "^([tT][rR][uU][eE]|[fF][aA][lL][sS][eE])$",
}
"""As searches over recipes write it, too: 1.0 is true."""
DTYPES = {
    "bfloat16": ["bf16"],
    "float16": ["fp16", "half"],
    "float32": ["fp32", "float"],
    "float64": ["fp64", "double"],
    "float8_e4m3fn": ["float8_e4m3"],
    "float8_e5m2": [],
}
"""What a result may be stored in, and the other names of each."""
NUMBERS = {"float": "number", "integer": "whole"}
"""Types of numbers, and what their definitions are called."""


def ref(name: str) -> Schema:
    """Whatever the definition of that name says."""
    return {"$ref": f"#/$defs/{name}"}


def or_null(schema: Schema) -> Schema:
    """The same, or nothing behind the key: then it counts as left out."""
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    found = {**schema, "type": [*kinds, "null"]}
    return {**found, "enum": [*schema["enum"], None]} if "enum" in schema else found


def said(key: str) -> Schema:
    """A mapping in which the key is there, and something behind it."""
    return {"required": [key], "properties": {key: {"not": {"type": "null"}}}}


def closed(properties: Mapping[str, Schema], *, required: Sequence[str] = (), kind: Any = "object") -> Schema:
    """A mapping with these keys and no others."""
    needed = {"required": list(required)} if required else {}
    return {"type": kind, "properties": dict(properties), **needed, "additionalProperties": False}


def dtype(*others: str) -> Schema:
    """A dtype by any of its names, or one of some other words."""
    names = [*DTYPES, *(name for names in DTYPES.values() for name in names)]
    return {
        "type": ["string", "null"],
        "anyOf": [{"enum": [*DTYPES, *others, None]}, {"pattern": f"^(torch\\.)?({'|'.join(names)})$"}],
    }


def definitions(known: Mapping[str, Method]) -> Schema:
    """A definition for each kind of parameter: one value, and whatever stands for several."""
    found: Schema = {}
    for method in known.values():
        for one in method.parameters.values():
            found[kind(one)] = value(one)
            found[f"{kind(one)}_setting"] = setting(ref(kind(one)))
    return found


def kind(one: Parameter) -> str:
    """The name of what a parameter takes."""
    if one.type in NUMBERS:
        low, high = one.range or (None, None)
        ends = ["" if low is None else f"_from_{low:g}", "" if high is None else f"_to_{high:g}"]
        return NUMBERS[one.type] + "".join(ends)
    return "_or_".join([*(["flag"] if one.type.startswith("bool") else []), *one.choices])


def value(one: Parameter) -> Schema:
    """One value of a parameter."""
    if one.type in NUMBERS:
        low, high = one.range or (None, None)
        ends = {key: end for key, end in {"minimum": low, "maximum": high}.items() if end is not None}
        kind_of_number = "integer" if one.type == "integer" else "number"
        return {"type": [kind_of_number, "string"], **ends, "pattern": NUMBER}
    if one.type == "bool":
        return FLAG
    words: Schema = {"type": "string", "enum": list(one.choices)}
    return words if one.type == "choice" else {"anyOf": [FLAG, words]}


def setting(one: Schema) -> Schema:
    """A value, a list of values over the layers, an entry with a filter, or a list of any of them."""
    gradient = {"type": "array", "minItems": 1, "items": one}
    filtered = closed(
        {
            "filter": {
                **or_null(FILTER),
                "description": "The tensors that have this value, as in `rules`; without it all.",
            },
            "value": {
                "description": "The value, or a list that changes over the layers.",
                "if": {"type": "array"},
                "then": gradient,
                "else": one,
            },
        },
        required=["value"],
    )
    single = {"if": {"type": "object"}, "then": filtered, "else": one}
    entry = {"if": {"type": "array"}, "then": gradient, "else": single}
    several = {"if": {"contains": {"type": "object"}}, "then": {"items": entry}, "else": gradient}
    return {"if": {"type": "array"}, "then": several, "else": single}


def about(schema: Schema, description: str) -> Schema:
    """The same, with what an editor shows of it."""
    return {"description": description, **schema}
