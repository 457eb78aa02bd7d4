"""The result's `README.md`: a model card with the hub's metadata and the recipe.

The same merge gives the same bytes: no path, clock or host stands in it. Names come from directories and are hostile
until quoted: they can end neither the front matter nor the fence around the recipe.
"""

from __future__ import annotations

import json
import re
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from branchmerge.errors import shown

if TYPE_CHECKING:
    from branchmerge.merge.results import Input, Plan

NAME = "README.md"
PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_]*(?:[./-][A-Za-z0-9_]+)*")
WORDS_OF_YAML = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
CACHED = re.compile(r"models--([A-Za-z0-9_.-]+?)--([A-Za-z0-9_.-]+)/snapshots/[^/]+/?")
"""Where a hub cache keeps a checkpoint: its directory names the repository."""
PINNED = re.compile(r"^([A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+)@[0-9a-f]{40}$")
"""What an input from the hub is called: its commit stands in the manifest and in the recipe below."""


def write(plan: Plan) -> bytes:
    """The card of a plan's result."""
    models = [_model(one) for one in plan.inputs]
    method = plan.method or "merge"
    front = ["---", "base_model:", *(f"- {_scalar(model)}" for model in dict.fromkeys(models))]
    front += ["base_model_relation: merge", "library_name: transformers", "tags:", "- merge", "- branchmerge"]
    front += [f"- {_scalar(method)}", "---"]
    body = [
        "",
        f"# A merge by {_inline(method)}",
        "",
        f"Made with branchmerge from {_listed(models)}" + (f", base {_inline(_base(plan))}." if plan.base else "."),
        "`branchmerge.json` beside this file names every tensor with its hash: `branchmerge verify` checks them.",
        "",
        *_fenced(_recipe(plan.recipe)),
        "",
    ]
    return "\n".join(front + body).encode()


def _model(one: Input) -> str:
    cached = CACHED.fullmatch("/".join(PurePath(one.path).parts[-3:]))
    return f"{cached[1]}/{cached[2]}" if cached else PINNED.sub(r"\1", one.label)


def _base(plan: Plan) -> str:
    return next((_model(one) for one in plan.inputs if one.label == plan.base), plan.base or "")


def _listed(models: list[str]) -> str:
    *first, last = (_inline(model) for model in models)
    return f"{', '.join(first)} and {last}" if first else last


def _inline(name: str) -> str:
    """A name as code inside a sentence."""
    safe = shown(name)
    ticks = "`" * (_longest_run(safe) + 1)
    space = " " if "`" in safe else ""
    return f"{ticks}{space}{safe}{space}{ticks}"


def _scalar(name: str) -> str:
    """A name as YAML: bare where that can only be a text, else quoted and escaped."""
    if PLAIN.fullmatch(name) and name.lower() not in WORDS_OF_YAML:
        return name
    return json.dumps(shown(name), ensure_ascii=False)


def _recipe(recipe: dict[str, Any]) -> str:
    import yaml

    text: str = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=False, width=1000)
    return text


def _fenced(text: str) -> list[str]:
    fence = "`" * max(3, _longest_run(text) + 1)
    return [f"{fence}yaml", *text.rstrip("\n").split("\n"), fence]


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall(r"`+", text)), default=0)
