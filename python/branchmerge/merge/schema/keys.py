"""The keys of a recipe and of all that is inside it: what each means, and what may stand behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from branchmerge.merge.schema import methods, parameters, rules
from branchmerge.merge.schema.values import FILTER, PATH, Schema, about, closed, or_null, ref, said
from branchmerge.merge.schema.whole import DEAD, whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from branchmerge.merge.specs import Method

WAYS = ("models", "slices", "modules")
"""The ways to list models; a recipe has one of them."""
MODEL: Schema = {**PATH, "type": ["string", "object"], "if": {"type": "object"}, "then": ref("inner")}
FILE = or_null(PATH)
PARAMETERS = about(
    {"type": ["object", "null"], "propertyNames": ref("parameter_name")},
    "Values of the method's parameters, for all models or beside one of them; the latter come first.",
)
BASE = about(
    or_null(MODEL),
    "The checkpoint that the branches grew from, or a merge in its place; it gives config and tokenizer.",
)
SOURCES = about(
    {"type": "array", "minItems": 1, "items": ref("source")},
    "The models whose layers are merged, as many of each.",
)
LAYERS = about(
    {
        "type": ["array", "null"],
        "prefixItems": [{"type": "integer", "minimum": 0}, {"type": "integer", "minimum": 1}],
        "minItems": 2,
        "maxItems": 2,
    },
    "The layers that are meant, `[first, end]`, the end not included.",
)


def root(known: Mapping[str, Method]) -> Schema:
    """The recipe as a whole."""
    return {
        **closed({**merge(known), **parts(), **whole(), **DEAD}, required=["merge_method"]),
        "oneOf": [said(way) for way in WAYS],
        "not": {"allOf": [said("tokenizer"), said("tokenizer_source")]},
        "allOf": [*parameters.of_recipe(known), ref("around"), *rules.conditions(known)],
    }


def definitions(known: Mapping[str, Method]) -> Schema:
    """What is inside a recipe."""
    return {
        "inner": inner(known),
        "around": {"allOf": methods.conditions(known)},
        "listed": closed(listed(), required=["model"]),
        "source": closed({**listed(), "layer_range": LAYERS}, required=["model"]),
        "slice": slice_(),
        "module": {**closed(module()), "oneOf": [said(way) for way in module() if way in WAYS]},
        "rule": rule(known),
    }


def method_name(known: Mapping[str, Method]) -> Schema:
    """A method by its name or another of its words."""
    words = [
        {"const": word, "description": f"{method.sentence[:1].upper()}{method.sentence[1:]}."}
        for method in known.values()
        for word in (method.name, *method.aliases)
    ]
    return {"type": "string", "oneOf": words}


def merge(known: Mapping[str, Method]) -> Schema:
    """The keys of a merge, wherever it stands."""
    ends = {
        "first": about({"type": "number"}, "The factor of the first layer."),
        "last": about({"type": "number"}, "The factor of the last layer."),
    }
    lines = closed(ends, required=["first", "last"], kind=["object", "null"])
    return {
        "merge_method": about(method_name(known), "How the models are merged; `branchmerge methods` tells more."),
        "base_model": BASE,
        "models": several("listed", "The models, in their order."),
        "parameters": PARAMETERS,
        "lines": about(lines, "Factors of what the merge changes in its base, in even steps over the layers (LiNeS)."),
        "auto_weight": about(
            or_null({"type": "string", "enum": ["nan", "metagpt"]}),
            "Instead of `weight`: the inverse norm of what each branch brings, or the squared norm of its delta.",
        ),
    }


def parts() -> Schema:
    """The keys that say something of some layers, modules or tensors."""
    ranged = {"items": {"properties": {"sources": {"items": said("layer_range")}}}}
    slices = {**several("slice", "Layers put together anew, slice by slice."), "if": {"minItems": 2}, "then": ranged}
    modules = {"type": ["object", "null"], "minProperties": 1, "additionalProperties": ref("module")}
    return {
        "slices": slices,
        "modules": about(
            modules, "A merge for each module of the model, by its name; `default` takes all other tensors."
        ),
        "rules": {
            "description": "Other methods for some tensors; the first that matches counts.",
            "type": ["array", "null"],
            "items": ref("rule"),
        },
    }


def several(name: str, description: str) -> Schema:
    """A list of at least one."""
    return about({"type": ["array", "null"], "minItems": 1, "items": ref(name)}, description)


def listed() -> Schema:
    """The keys beside a model."""
    return {
        "model": about(MODEL, "A checkpoint, `CHECKPOINT+ADAPTER` with a LoRA adapter, or a merge in its place."),
        "parameters": PARAMETERS,
        "importance": about(FILE, "A safetensors file with how much each element matters, as in Fisher merging."),
        "grams": about(FILE, "What `branchmerge grams` collected on the model, for `regmean` and `lot`."),
    }


def slice_() -> Schema:
    """Some layers of the result; all of its sources have a range of layers, or none."""
    ranged: Schema = {"if": {"contains": said("layer_range")}, "then": {"items": said("layer_range")}}
    keys = {
        "sources": {**SOURCES, **ranged},
        "base_model": BASE,
        "parameters": PARAMETERS,
        "residual_weight": DEAD["residual_weight"],
    }
    return closed(keys, required=["sources"])


def module() -> Schema:
    """The keys of a module."""
    return {"models": merge({})["models"], "slices": parts()["slices"], "parameters": PARAMETERS}


def inner(known: Mapping[str, Method]) -> Schema:
    """A merge that stands in place of a model."""
    unwritten = {
        "description": "Does nothing: an inner merge is not written. See `round_intermediate`.",
        "deprecated": True,
    }
    keys = {**merge(known), "dtype": unwritten, "out_dtype": unwritten, **DEAD}
    return {
        **closed(keys, required=["merge_method"]),
        "allOf": [said("models"), *parameters.of_inner(known), ref("around")],
    }


def rule(known: Mapping[str, Method]) -> Schema:
    """Another method for some tensors."""
    keys = {
        "filter": about(FILTER, "A part of tensors' names, `*` for all, or a pattern for the whole name."),
        "merge_method": about(method_name(known), "The method of these tensors."),
        "parameters": PARAMETERS,
    }
    return {**closed(keys, required=["filter", "merge_method"]), "allOf": parameters.of_rule(known)}
