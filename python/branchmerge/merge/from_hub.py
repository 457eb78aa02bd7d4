"""Plans of recipes that name models of the hub: made from headers, fetched when they are carried out."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from branchmerge.errors import Problem
from branchmerge.hub.checkouts import Checkouts
from branchmerge.merge.results import Plan, Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from branchmerge.merge.recipe import Recipe

    Planned = Callable[[Recipe, Mapping[str, Any]], Plan]


def decide(recipe: Recipe, how: Mapping[str, Any], planned: Planned) -> Plan:
    """The plan of a recipe with names of the hub. No weights are fetched; before they are, it cannot be carried out."""
    checkouts = Checkouts(recipe.content)
    plan = _over_directories(recipe, how, planned, checkouts)
    if not checkouts.waiting:
        return plan

    def fetch(progress: Callable[[Progress], object] | None) -> Plan:
        checkouts.fetch(_reporting(progress))
        return _over_directories(recipe, how, planned, checkouts)

    problems = plan.problems + _room(checkouts)
    return replace(plan, problems=problems, handle=None, fetch=fetch, fetch_bytes=checkouts.bytes_waiting)


def _over_directories(recipe: Recipe, how: Mapping[str, Any], planned: Planned, checkouts: Checkouts) -> Plan:
    """The plan over the directories that stand for names now; what it tells speaks of the names."""
    plan = planned(replace(recipe, content=checkouts.content), {**how, "labels": checkouts.labels})
    failed = {problem.at for problem in checkouts.problems}
    own = [recipe.located(problem) for problem in checkouts.problems]
    others = [_readable(problem, checkouts) for problem in plan.problems if problem.at not in failed]
    inputs = tuple(replace(one, path=checkouts.readable(one.path)) for one in plan.inputs)
    return replace(
        plan,
        problems=tuple(sorted([*own, *others], key=lambda problem: (problem.line is None, problem.line or 0))),
        warnings=(*checkouts.warnings, *(checkouts.readable(warning) for warning in plan.warnings)),
        inputs=inputs,
        held=checkouts,
    )


def _readable(problem: Problem, checkouts: Checkouts) -> Problem:
    def readable(text: str | None) -> str | None:
        return None if text is None else checkouts.readable(text)

    message = checkouts.readable(problem.message)
    return replace(problem, message=message, hint=readable(problem.hint), path=readable(problem.path))


def _room(checkouts: Checkouts) -> tuple[Problem, ...]:
    """That the disk of the hub's cache holds what is to be fetched."""
    from branchmerge.hub import client

    cache = client.cache()
    free, needed = shutil.disk_usage(cache).free, checkouts.bytes_waiting
    if needed <= free:
        return ()
    hint = "make room, or set `HF_HOME` to a directory on a larger disk"
    what = f"{needed} bytes are to be fetched, and the disk of the hub's cache has {free} free"
    return (Problem(what, hint, path=str(cache), kind="os"),)


def _reporting(progress: Callable[[Progress], object] | None) -> Callable[[int, int, int, int], object] | None:
    if progress is None:
        return None
    return lambda *counts: progress(Progress("fetching", *counts))
