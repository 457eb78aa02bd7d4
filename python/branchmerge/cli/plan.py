"""`branchmerge plan`: what a recipe would do, or everything that is wrong with it; nothing is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import rich_click as click

from branchmerge.cli import terminal

if TYPE_CHECKING:
    from branchmerge.merge.results import Plan

RATE = 1e9
"""Bytes a second that the estimate of time assumes; the plan says so."""


@click.command("plan", short_help="Tell what a recipe would do, and every problem of it.")
@click.argument("recipe", metavar="RECIPE.yml")
@click.option("-o", "--out", metavar="DIR", help="The target that is meant: is it free, is there room?")
@click.option("--memory", metavar="SIZE", help="The bound on private memory that is meant, like 8GiB.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Worker threads (all cores).")
@click.option("--json", "as_json", is_flag=True, help="The plan as JSON on standard output, nothing else there.")
@click.option("--quiet", is_flag=True, help="Errors only.")
@click.option("--verbose", is_flag=True, help="Tracebacks of errors.")
def command(
    recipe: str, out: str | None, memory: str | None, threads: int | None, *, as_json: bool, quiet: bool, verbose: bool
) -> int:
    """Tell every problem of RECIPE.yml at once, the bytes to read and write, memory, disk; nothing is written.

    Of models on the hub only headers and small files are fetched.
    """
    from branchmerge.merge import functions

    del verbose
    options = functions.Options(out, threads, memory, io="map")
    return tell_plan(functions.decide(functions.read_recipe(recipe), options), as_json=as_json, quiet=quiet)


def tell_plan(plan: Plan, *, as_json: bool, quiet: bool) -> int:
    """Print a plan; the exit status tells whether it could be carried out."""
    from branchmerge.merge.results import as_data

    if not quiet:
        for warning in plan.warnings:
            terminal.warn(warning)
    if as_json:
        terminal.say_json(as_data(plan))
    if plan.problems:
        return terminal.complain_all(plan.problems)
    if not as_json and not quiet:
        terminal.say(f"{plan.out or 'a result'}: {plan.method} of {len(plan.inputs)} checkpoints, {_state(plan)}")
        terminal.say(terminal.table(_rows(plan)))
    return 0


def _state(plan: Plan) -> str:
    return "goes on where an earlier run stopped" if plan.state == "resumes" else "nothing stands in the way"


def _rows(plan: Plan) -> list[list[str]]:
    rows = []
    for one in plan.inputs:
        role = "base" if one.label == plan.base else "branch"
        rows.append([role, f"{one.label}: {one.tensors:,} tensors, {terminal.size(one.bytes)}, {_counts(one.dtypes)}"])
    memory, disk = plan.memory, plan.disk
    free = disk.get("free")
    room = "" if free is None else f", {terminal.size(free)} free"
    rows += [
        ["result", _result(plan)],
        *([["fetched", f"{terminal.size(plan.fetch_bytes)} from the hub"]] if plan.fetch_bytes else []),
        ["read", terminal.size(plan.read_bytes)],
        ["written", terminal.size(plan.write_bytes)],
        ["passes", ", ".join(f"{count:,} tensors read {_times(times)}" for times, count in plan.passes.items())],
        ["time", f"about {(plan.read_bytes + plan.write_bytes) / RATE:.1f} s at {terminal.size(RATE)}/s"],
        ["memory", f"{terminal.memory(memory.get('private') or 0)} private, {memory.get('threads')} threads"],
        ["disk", f"{terminal.size(disk.get('needed') or 0)} needed{room}"],
    ]
    if plan.sidecars:
        rows.append(["carried", ", ".join(plan.sidecars)])
    rows += [["allowed", f"{one.get('rule')}: {one.get('tensor') or ''}"] for one in plan.allowed[:20]]
    return rows


def _result(plan: Plan) -> str:
    output = plan.output
    counts = f"{output.get('tensors', 0):,} tensors, {output.get('elements', 0):,} elements"
    files = len(output.get("files") or ())
    return f"{counts}, {_counts(output.get('dtypes') or {})}, {files} weight file{'s' * (files != 1)}"


def _counts(dtypes: dict[str, int]) -> str:
    return ", ".join(dtypes) if len(dtypes) == 1 else ", ".join(f"{name} ({count})" for name, count in dtypes.items())


def _times(times: str) -> str:
    return {"1": "once", "2": "twice"}.get(times, f"{times} times")
