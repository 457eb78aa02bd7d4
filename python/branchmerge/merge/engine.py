"""The one place where Python meets the engine: JSON goes in, JSON comes out, errors are ours."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from branchmerge import _core

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

VERSION: str = _core.__version__
MANIFEST = "branchmerge.json"
"""The file beside the weights that tells how they were made."""


def plan(recipe: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[_core.Plan, dict[str, Any]]:
    """Decide everything about a merge from headers alone; the JSON holds the decisions or the problems."""
    handle = _core.plan(json.dumps(recipe, allow_nan=False), json.dumps(options, allow_nan=False))
    return handle, json.loads(handle.json())


def execute(
    handle: _core.Plan, sidecars: Mapping[str, bytes], progress: Callable[[dict[str, Any]], object] | None
) -> dict[str, Any]:
    """Carry a plan out; `progress` is called about ten times a second."""
    said: dict[str, Any] = json.loads(_core.execute(handle, dict(sidecars), _decoded(progress)))
    return said


def plan_lent(
    recipe: Mapping[str, Any], options: Mapping[str, Any], checkpoints: list[tuple[str, list[Any]]]
) -> tuple[_core.Plan, dict[str, Any]]:
    """`plan` for checkpoints in memory: a label and the lent tensors of each."""
    said, how = json.dumps(recipe, allow_nan=False), json.dumps(options, allow_nan=False)
    handle = _core.plan_lent(said, how, checkpoints)
    return handle, json.loads(handle.json())


def fuse_lent(handle: _core.Plan, rooms: list[object], progress: Callable[[dict[str, Any]], object] | None) -> None:
    """Carry a plan of `plan_lent` out into a buffer for each tensor."""
    _core.fuse_lent(handle, rooms, _decoded(progress))


def verify(directory: str, threads: int | None, progress: Callable[[dict[str, Any]], object] | None) -> dict[str, Any]:
    """Compare a result with its manifest, byte for byte."""
    said: dict[str, Any] = json.loads(_core.verify(directory, threads, _decoded(progress)))
    return said


def methods() -> list[dict[str, Any]]:
    """The specs of all methods."""
    said: list[dict[str, Any]] = json.loads(_core.methods())
    return said


def _decoded(progress: Callable[[dict[str, Any]], object] | None) -> Callable[[str], object] | None:
    if progress is None:
        return None
    return lambda text: progress(json.loads(text))
