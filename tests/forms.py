"""Recipes that are right or wrong in form alone, over the checkpoints `base`, `a`, `b` and `c`."""

from __future__ import annotations

from typing import Any

import branchmerge as bm
from branchmerge.merge.specs import Method

Recipe = dict[str, Any]
METHODS = bm.methods()
FISHER, GRAMS = "{}-fisher.safetensors", "{}-grams.safetensors"
BOTH = {"first": 0.5, "last": 1.5}


def listed(*names: str, method: Method | None = None, **keys: Any) -> list[Recipe]:
    grams = method is not None and method.grams
    return [{"model": name, **({"grams": GRAMS.format(name)} if grams else {}), **keys} for name in names]


def minimal(method: Method) -> Recipe:
    """The shortest recipe of a method: as few branches as it takes, and what must be said."""
    recipe: Recipe = {"merge_method": method.name, "models": listed(*"abc"[: method.branches[0]], method=method)}
    if method.base in {"required", "first"}:
        recipe["base_model"] = "base"
    needed = {one.name: 1 for one in method.parameters.values() if one.required}
    return recipe | ({"parameters": needed} if needed else {})


def ties(**keys: Any) -> Recipe:
    said = {
        "merge_method": "ties",
        "base_model": "base",
        "models": listed("a", "b"),
        "parameters": {"weight": 1},
    } | keys
    return {key: value for key, value in said.items() if value is not ...}


def linear(*names: str, **keys: Any) -> Recipe:
    return {"merge_method": "linear", "models": listed(*names), "parameters": {"weight": 1}, **keys}


def slerp(**keys: Any) -> Recipe:
    return {"merge_method": "slerp", "base_model": "a", "models": listed("a", "b"), "parameters": {"t": 0.5}} | keys


def nested(inner: Any) -> Recipe:
    return {"merge_method": "linear", "models": [{"model": inner}, {"model": "c"}], "parameters": {"weight": 1}}


def weighed(value: Any) -> Recipe:
    return ties(parameters={"weight": value})


def sliced(*slices: Any, **keys: Any) -> Recipe:
    return ties(models=..., slices=list(slices), **keys)


def in_modules(modules: Any, **keys: Any) -> Recipe:
    return ties(models=..., modules=modules, **keys)


def sources(first: Any, *names: str) -> Recipe:
    return {"sources": [{"model": name, "layer_range": first} for name in names]}


def ruled(*, outer: Recipe | None = None, **rule: Any) -> Recipe:
    said = {"filter": "mlp", "merge_method": "task_arithmetic", "parameters": {"weight": 1}} | rule
    return {**(outer or ties()), "rules": [{key: value for key, value in said.items() if value is not ...}]}


GOOD: dict[str, Recipe] = {
    "plain": ties(),
    "weights beside models": ties(models=listed("a", "b", parameters={"weight": 0.5}), parameters=...),
    "the base is listed without a weight": ties(
        models=[*listed("base"), *listed("a", "b", parameters={"weight": 0.5})], parameters=...
    ),
    "nothing behind keys": ties(
        slices=None, modules=None, rules=None, lines=None, auto_weight=None, dtype=None, out_dtype=None, seed=None,
        allow=None, rename=None, tokenizer=None, tokenizer_source=None, round_intermediate=None,
    ),
    "nothing behind parameters": ties(models=listed("a", parameters=None), parameters={"weight": 1}),
    "nothing behind files": ties(models=listed("a", "b", importance=None, grams=None)),
    "dead keys": ties(int8_mask=True, residual_weight="x", normalize=[], name={}, allow_negative_weights=None),
    "dead parameters": ties(parameters={"weight": 1, "int8_mask": True, "residual_weight": None}),
    "a parameter of other methods": ties(parameters={"weight": 1, "gamma": "x", "t": None}),
    "a number as a text": weighed("1e-5"),
    "a text with blanks": weighed(" .5 "),
    "a flag as a number": ties(parameters={"weight": 1, "normalize": 1.0}),
    "a flag as a text": ties(parameters={"weight": 1, "normalize": "False"}),
    "a gradient": weighed([0.25, 0.5, "1"]),
    "an entry": weighed({"value": 0.5}),
    "an entry for all": weighed({"filter": None, "value": [0.1, 1]}),
    "entries": weighed([{"filter": "mlp", "value": [0.5, 1]}, {"filter": "*.norm.*", "value": 0.5}, {"value": 1}]),
    "entries and a value": weighed([{"filter": "mlp", "value": 0.5}, 1]),
    "entries and a gradient": weighed([{"filter": "mlp", "value": 0.5}, [0.5, 1]]),
    "dtypes": ties(dtype="float32", out_dtype="torch.bf16", round_intermediate="half"),
    "no rounding": ties(round_intermediate="none"),
    "the largest seed": ties(seed=(1 << 64) - 1),
    "allow": ties(
        allow={
            "missing": "base", "extra": "copy", "shape": "overlap", "nan": "carry", "vocabulary": "rows",
            "bases": "differ",
        }
    ),
    "allow the other way": ties(allow={"missing": "skip", "extra": "drop"}),
    "rename": ties(rename={"from": "vision_tower.", "to": "vision."}),
    "renames": ties(rename=[{"from": "vision_tower.", "to": "vision."}, {"from": "model.", "to": "m."}]),
    "no renames": ties(rename=[]),
    "the base's tokenizer": ties(tokenizer_source="base"),
    "a model's tokenizer": ties(tokenizer_source="a"),
    "a model's tokenizer, marked": ties(tokenizer_source="model:a"),
    "tokenizer": ties(tokenizer={"source": "base"}),
    "tokenizer without a source": ties(tokenizer={}),
    "lines": ties(lines=BOTH),
    "auto_weight": ties(parameters=..., auto_weight="metagpt"),
    "auto_weight without a base": {"merge_method": "linear", "models": listed("a", "b"), "auto_weight": "nan"},
    "auto_weight, the base has a weight": ties(
        models=[*listed("base", parameters={"weight": 1}), *listed("a")], parameters=..., auto_weight="nan"
    ),
    "importance": ties(models=[{"model": name, "importance": FISHER.format(name)} for name in "ab"]),
    "importance of a mean": linear("a", models=[{"model": "a", "importance": FISHER.format("a")}]),
    "importance, not of the base": ties(models=[*listed("base"), {"model": "a", "importance": FISHER.format("a")}]),
    "grams": minimal(METHODS["regmean"]),
    "grams, not of the base": {**minimal(METHODS["lot"]), "models": listed("base") + minimal(METHODS["lot"])["models"]},
    "a merge as a model": nested(ties()),
    "a merge as the base": ties(base_model=linear("base", "c")),
    "a merge in a merge": nested(nested(linear("a", "b"))),
    "a merge with keys of its own": nested(ties(lines=BOTH, dtype="x", out_dtype=1, int8_mask=1)),
    "folded": {"merge_method": "arcee", "base_model": "a", "models": listed("a", "b", "c")},
    "the base is not listed": slerp(models=listed("b")),
    "models of the base's side": {**minimal(METHODS["linear"]), "base_model": "a"},
    "a slice": sliced(sources([0, 2], "a", "b")),
    "slices": sliced(sources([0, 1], "a", "b"), {**sources([1, 2], "a", "b"), "parameters": {"density": 0.5}}),
    "a slice of all layers": sliced({"sources": listed("a", "b")}),
    "a slice with a base of its own": sliced({**sources([0, 2], "a"), "base_model": "base"}, base_model=...),
    "a slice with its parameters": sliced({**sources([0, 2], "a"), "parameters": {"weight": 1}}, parameters=...),
    "a slice's dead key": sliced({**sources([0, 2], "a"), "residual_weight": "x"}),
    "t in a slice": slerp(parameters=None, models=None, slices=[{**sources([0, 2], "a", "b"), "parameters": {"t": 1}}]),
    "a module": in_modules({"default": {"models": listed("a", "b")}}),
    "modules": in_modules({"default": {"models": listed("a")}, "vision_tower": {"slices": [{"sources": listed("b")}]}}),
    "a module with its parameters": in_modules(
        {"default": {"models": listed("a", "b"), "parameters": {"weight": [0.5, 1]}}}, parameters=...
    ),
    "a copied module needs nothing": in_modules({"default": {"models": listed("a")}}, base_model=..., parameters=...),
    "t of the merged module": slerp(
        models=None, modules={"default": {"models": listed("a", "b")}, "vision_tower": {"models": listed("a")}}
    ),
    "rule": ruled(),
    "rule that copies": ruled(merge_method="passthrough", parameters=...),
    "rule without a base": ruled(merge_method="linear"),
    "rule of two": ruled(outer=slerp(), merge_method="nearswap", parameters={"t": 0.1}),
    "no rules": ties(rules=[]),
}  # fmt: skip
BAD: dict[str, Recipe] = {
    "empty": {},
    "no method": ties(merge_method=...),
    "unknown method": ties(merge_method="tie"),
    "method as a number": ties(merge_method=1),
    "nothing behind the method": ties(merge_method=None),
    "no models": ties(models=...),
    "empty models": ties(models=[]),
    "models as a mapping": ties(models={"model": "a"}),
    "a model as a text": ties(models=["a"]),
    "an entry without a model": ties(models=[{"parameters": {"weight": 1}}]),
    "an empty path": ties(models=listed("")),
    "a model as a number": ties(models=[{"model": 1}]),
    "a mapping of mergekit": ties(models=[{"model": {"model": {"path": "a"}}}]),
    "layer_range beside a model": ties(models=listed("a", layer_range=[0, 1])),
    "unknown key": ties(dype="bfloat16"),
    "a parameter at the top": ties(density=0.5),
    "unknown key beside a model": ties(models=listed("a", weight=1)),
    "unknown parameter": ties(parameters={"weight": 1, "densty": 0.5}),
    "unknown parameter of a model": ties(models=listed("a", parameters={"densty": 0.5})),
    "parameters as a list": ties(parameters=[1]),
    "one value for the whole, beside a model": ties(models=listed("a", parameters={"lambda": 1})),
    "no base": ties(base_model=...),
    "nothing behind the base": ties(base_model=None),
    "no base for slerp": slerp(base_model=None),
    "no weight": ties(parameters=...),
    "no weight of two models": ties(models=[*listed("a", parameters={"weight": 1}), *listed("b", "c")], parameters=...),
    "no t": slerp(parameters={}),
    "t beside a model": slerp(parameters={}, models=listed("a", "b", parameters={"t": 1})),
    "three of two": slerp(models=listed("a", "b", "c")),
    "two of one": {"merge_method": "passthrough", "models": listed("a", "b")},
    "nothing behind a value": weighed(None),
    "a value that is no number": weighed("one"),
    "a text with an underscore": weighed("1_0"),
    "not finite": weighed("inf"),
    "a flag for a number": weighed(value=True),
    "an empty gradient": weighed([]),
    "a gradient of gradients": weighed([[0, 1]]),
    "a gradient with a word": weighed([0, "x"]),
    "an entry without a value": weighed({"filter": "mlp"}),
    "an entry with another key": weighed({"filtr": "mlp", "value": 1}),
    "an entry without a filter's text": weighed({"filter": "", "value": 1}),
    "an entry in an entry": weighed({"value": {"value": 1}}),
    "entries with an empty gradient": weighed([{"value": 1}, []]),
    "a number for a flag": ties(parameters={"weight": 1, "normalize": 2}),
    "half a flag": ties(parameters={"weight": 1, "normalize": 0.5}),
    "a word for a flag": ties(parameters={"weight": 1, "normalize": "yes"}),
    "dtype": ties(out_dtype="bfloat"),
    "an integer dtype": ties(dtype="int8"),
    "dtype as a number": ties(dtype=16),
    "round_intermediate": ties(round_intermediate="bf"),
    "no dtype": ties(out_dtype="none"),
    "a negative seed": ties(seed=-1),
    "a seed as a text": ties(seed="7"),
    "too large a seed": ties(seed=1 << 64),
    "half a seed": ties(seed=0.5),
    "unknown rule of allow": ties(allow={"mising": "base"}),
    "wrong value of allow": ties(allow={"missing": "copy"}),
    "nothing behind a rule of allow": ties(allow={"nan": None}),
    "allow as a text": ties(allow="missing"),
    "rename without to": ties(rename={"from": "x"}),
    "rename with more": ties(rename={"from": "model.", "to": "m.", "of": "a"}),
    "rename to a number": ties(rename=[{"from": "model.", "to": 1}]),
    "rename as a text": ties(rename="model."),
    "two tokenizers": ties(tokenizer={"source": "base"}, tokenizer_source="base"),
    "tokenizer as a text": ties(tokenizer="base"),
    "unknown key of the tokenizer": ties(tokenizer={"sources": "base"}),
    "tokenizer of no model": ties(tokenizer_source="model:"),
    "tokenizer_source as a list": ties(tokenizer_source=["a"]),
    "lines without last": ties(lines={"first": 1}),
    "lines with more": ties(lines={**BOTH, "middle": 1}),
    "lines as texts": ties(lines={"first": "0.5", "last": 1}),
    "lines without a base": linear("a", "b", lines=BOTH),
    "lines of a mean": linear("a", "b", base_model="a", lines=BOTH),
    "unknown auto_weight": ties(parameters=..., auto_weight="norm"),
    "auto_weight and weight": ties(auto_weight="nan"),
    "auto_weight and weights": ties(models=listed("a", parameters={"weight": 1}), parameters=..., auto_weight="nan"),
    "auto_weight without weight": slerp(auto_weight="nan"),
    "metagpt without a base": linear("a", "b", parameters={}, auto_weight="metagpt"),
    "auto_weight and importance": ties(
        models=[{"model": name, "importance": FISHER.format(name)} for name in "ab"], parameters=..., auto_weight="nan"
    ),
    "importance of one of three": linear("a", models=[*listed("a", importance=FISHER.format("a")), *listed("b", "c")]),
    "importance without deltas": {**minimal(METHODS["karcher"]), "models": listed("a", importance=FISHER.format("a"))},
    "importance of one that is not weighed": slerp(models=[*listed("a"), *listed("b", importance=FISHER.format("b"))]),
    "importance as a number": ties(models=listed("a", importance=1)),
    "no grams": {**minimal(METHODS["lot"]), "models": listed("a")},
    "grams of one, of another method": ties(models=[*listed("base"), *listed("a", grams=GRAMS.format("a"))]),
    "grams of another method": ties(models=[{"model": name, "grams": GRAMS.format(name)} for name in "ab"]),
    "an inner merge without models": nested({"merge_method": "linear", "parameters": {"weight": 1}}),
    "an inner merge without a weight": nested(ties(parameters=...)),
    "an inner merge with a seed": nested(ties(seed=1)),
    "an inner merge with slices": nested(sliced(sources([0, 2], "a"))),
    "an inner merge with an unknown key": nested(ties(dype="x")),
    "an inner merge out of range": ties(base_model=ties(parameters={"weight": 1, "density": 2})),
    "models and slices": ties(slices=[sources([0, 2], "a")]),
    "models and modules": ties(modules={"default": {"models": listed("a")}}),
    "empty slices": sliced(),
    "a slice without sources": sliced({"parameters": {"weight": 1}}),
    "a slice with models": sliced({"models": listed("a")}),
    "a slice with a key more": sliced({**sources([0, 2], "a"), "rules": []}),
    "some ranges": sliced({"sources": [*listed("a", layer_range=[0, 1]), *listed("b")]}),
    "slices without ranges": sliced({"sources": listed("a")}, {"sources": listed("a")}),
    "a range of one number": sliced(sources([1], "a")),
    "a range of three": sliced(sources([0, 1, 2], "a")),
    "a range as a text": sliced(sources("0-2", "a")),
    "a range of texts": sliced(sources(["0", "2"], "a")),
    "a range from below": sliced(sources([-1, 2], "a")),
    "a range of nothing": sliced(sources([0, 0], "a")),
    "a slice without a base": sliced(sources([0, 2], "a"), base_model=...),
    "a slice's parameter out of range": sliced({**sources([0, 2], "a"), "parameters": {"density": 2}}),
    "a source's unknown parameter": sliced({"sources": listed("a", parameters={"densty": 1})}),
    "no t in a slice": slerp(parameters=None, models=None, slices=[sources([0, 2], "a", "b")]),
    "no folds in a slice": {"merge_method": "arcee", "base_model": "a", "slices": [sources([0, 2], "a", "b", "c")]},
    "empty modules": in_modules({}),
    "modules as a list": in_modules([listed("a")]),
    "a module without models": in_modules({"default": {"parameters": {"weight": 1}}}),
    "a module with both": in_modules({"default": {"models": listed("a"), "slices": [{"sources": listed("a")}]}}),
    "a module with a base": in_modules({"default": {"models": listed("a"), "base_model": "base"}}),
    "a module out of range": in_modules({"default": {"models": listed("a", "b"), "parameters": {"density": 2}}}),
    "a module without a base": in_modules({"default": {"models": listed("a", "b")}}, base_model=...),
    "a module without a weight": in_modules({"default": {"models": listed("a", "b")}}, parameters=...),
    "a copied module's wrong scale": in_modules(
        {"default": {"models": listed("a"), "parameters": {"scale": "x"}}}, base_model=...
    ),
    "rules as a mapping": ties(rules={"filter": "mlp", "merge_method": "linear"}),
    "rule without a filter": ruled(filter=...),
    "rule with an empty filter": ruled(filter=""),
    "rule without a method": ruled(merge_method=...),
    "rule of an unknown method": ruled(merge_method="tie"),
    "rule with a key more": ruled(models=[]),
    "rule without a weight": ruled(parameters=...),
    "rule out of range": ruled(merge_method="ties", parameters={"weight": 1, "density": 2}),
    "rule with an unknown parameter": ruled(parameters={"weight": 1, "densty": 1}),
    "rule that needs a base": ruled(outer=linear("a", "b")),
    "rule of two among three": ruled(outer=ties(models=listed("a", "b", "c")), merge_method="arcee", parameters=...),
}  # fmt: skip
