"""The keys that stand at the top of a recipe alone: what is stored and how, what is let through."""

from __future__ import annotations

from branchmerge.merge.schema.values import PATH, Schema, about, closed, dtype, or_null

DEAD: Schema = {
    key: {"description": meaning, "deprecated": True}
    for key, meaning in {
        "int8_mask": "Does nothing, as in mergekit.",
        "residual_weight": "Does nothing, as in mergekit.",
        "normalize": "Does nothing here, as in mergekit: it belongs under `parameters`.",
        "name": "The name of one of several documents, which stands for its merge in the others; else it does nothing.",
        "allow_negative_weights": "Does nothing: a setting of searches over recipes.",
    }.items()
}
"""Keys that are taken and do nothing, whatever stands behind them."""
ALLOW = {
    "missing": (["base", "skip"], "A tensor that a branch lacks: it is the base's, or the branch takes no part."),
    "extra": (["copy", "drop"], "A tensor that only a branch has: it is copied, or left out."),
    "shape": (["overlap"], "Embeddings with other numbers of rows: the rows that all models have are merged."),
    "nan": (["carry"], "NaN and infinity in the models."),
    "vocabulary": (["rows"], "Tokenizers of as many rows with other tokens."),
    "bases": (["differ"], "Branches that were sealed with different bases."),
}
LARGEST_SEED = (1 << 64) - 1
TEMPLATES = ["auto", "alpaca", "chatml", "llama3", "mistral", "exaone"]
MODEL: Schema = {**PATH, "description": "A model of the recipe."}


def whole() -> Schema:
    """Each key with what it means and what may stand behind it."""
    stored = "The stored type of the result; the base's, or the first model's, where nothing is said."
    instead = "The stored type of the result where `out_dtype` is absent; sums are f32 and f64 always."
    rounded = "Rounds nested merges as writing them to disk would have done: `bf16`, or `none`."
    seed = or_null({"type": "integer", "minimum": 0, "maximum": LARGEST_SEED, "default": 0})
    return {
        "out_dtype": about(dtype(), stored),
        "dtype": about(dtype(), instead),
        "tokenizer_source": source(),
        "tokenizer": tokenizer(),
        "chat_template": chat_template(),
        "rename": rename(),
        "seed": about(seed, "Of what is drawn by chance."),
        "allow": allow(),
        "round_intermediate": about({**dtype("none"), "default": "none"}, rounded),
    }


def source() -> Schema:
    """Whose tokenizer it is: a word, or a model, which may be marked as such."""
    model = {"pattern": "^(?!model:$)[^\\u0000]+$"}
    words: Schema = {"type": ["string", "null"], "anyOf": [{"enum": ["base", "union", None]}, model]}
    return about(words, "Whose tokenizer the result has: `base`, `union` (one with the tokens of all), or a model.")


def tokenizer() -> Schema:
    """The tokenizer of the result, token by token where need be."""
    rows = {"type": ["integer", "null"], "minimum": 1, "maximum": 65536}
    tokens = {"type": ["object", "null"], "additionalProperties": token()}
    keys = {
        "source": {**source(), "default": "union"},
        "tokens": about(tokens, "Where the rows of some tokens come from."),
        "pad_to_multiple_of": about(rows, "The number of rows of the embeddings becomes a multiple of this."),
    }
    return about(closed(keys, kind=["object", "null"]), "The tokenizer of the result. Not beside `tokenizer_source`.")


def token() -> Schema:
    """Where a token's row comes from."""
    of_model = closed(
        {
            "kind": about({"const": "model_token"}, "A token of a model."),
            "model": MODEL,
            "token": about({"type": "string"}, "The token as its tokenizer writes it."),
            "token_id": about({"type": "integer", "minimum": 0}, "The token's number."),
        },
        required=["kind", "model"],
    )
    zero = closed({"kind": about({"const": "zero"}, "A row of zeros.")}, required=["kind"])
    one = {"oneOf": [{"required": ["token"]}, {"required": ["token_id"]}]}
    row = {
        "type": ["string", "object"],
        "pattern": PATH["pattern"],
        "if": {"properties": {"kind": {"const": "zero"}}},
        "then": {"if": {"type": "object"}, "then": zero},
        "else": {**of_model, **one},
    }
    force = {"type": "boolean", "default": False}
    return closed(
        {
            "source": about(row, "The model whose row it is; or `{kind: model_token, …}`, or `{kind: zero}`."),
            "force": about(force, "Take that row for all models, those too that have the token."),
        },
        required=["source"],
    )


def chat_template() -> Schema:
    """The chat template of the result."""
    text = {"type": ["string", "null"], "anyOf": [{"enum": [*TEMPLATES, None]}, {"pattern": "\\{\\{|\\{%"}]}
    return about(text, "The chat template of the result: a known one by its name, `auto`, or a template in Jinja.")


def rename() -> Schema:
    """Prefixes that are exchanged."""
    prefix = {"type": "string"}
    keys = {
        "from": about(prefix, "A prefix of tensors' names."),
        "to": about(prefix, "What stands in its place."),
    }
    one = closed(keys, required=["from", "to"])
    many = {"type": ["object", "array", "null"], "items": one, "if": {"type": "object"}, "then": one}
    return about(many, "Exchanges prefixes of tensors' names in all models: `{from: …, to: …}`, or a list.")


def allow() -> Schema:
    """What is let through."""
    rules = {name: about({"type": "string", "enum": values}, meaning) for name, (values, meaning) in ALLOW.items()}
    return about(closed(rules, kind=["object", "null"]), "What would be refused, permitted by name.")
