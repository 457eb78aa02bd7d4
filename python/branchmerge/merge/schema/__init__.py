"""The recipe language as JSON Schema (draft 2020-12), so that editors complete and check recipes.

What methods take is read from their specs. The engine alone decides what a recipe means: the schema says what can be
said of a recipe's form without looking at files, or comparing one value of it with another.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from branchmerge.merge.schema import keys, parameters, values

if TYPE_CHECKING:
    from collections.abc import Mapping

    from branchmerge.merge.schema.values import Schema
    from branchmerge.merge.specs import Method

WIDTH = 120
ABOUT = (
    "A recipe of branchmerge: which models become one, and how. `branchmerge plan RECIPE.yml` checks what a schema "
    "cannot: that the models fit, that filters match, which of the models is the base."
)


def schema(known: Mapping[str, Method]) -> Schema:
    """The schema of a recipe, one document of a file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "branchmerge recipe",
        "description": ABOUT,
        **keys.root(known),
        "$defs": {**keys.definitions(known), **parameters.definitions(known), **values.definitions(known)},
    }


def text(known: Mapping[str, Method]) -> str:
    """The schema as its file holds it."""
    return _lines(schema(known)) + "\n"


def _lines(value: Any, indent: str = "") -> str:
    """JSON with what is short on one line."""
    flat = json.dumps(value)
    if len(flat) + len(indent) <= WIDTH or not isinstance(value, dict | list) or not value:
        return flat
    inner = indent + " "
    if isinstance(value, list):
        parts = [_lines(one, inner) for one in value]
    else:
        parts = [f"{json.dumps(key)}: {_lines(one, inner)}" for key, one in value.items()]
    opening, closing = "[]" if isinstance(value, list) else "{}"
    return f"{opening}\n{inner}" + f",\n{inner}".join(parts) + f"\n{indent}{closing}"
