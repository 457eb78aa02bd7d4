"""The Python functions of the front door: `fuse`, `merge`, `plan`, `verify`, `methods`.

The command line calls the same pieces: a recipe and options become a plan (`decide`), a plan without problems is
carried out (`carry_out`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from branchmerge.errors import BranchmergeError, Problem, RecipeError, from_problems, shown
from branchmerge.hub import names, pushing
from branchmerge.merge import engine, model_card
from branchmerge.merge.recipe import Recipe, allowing, default_out, from_data, fused, size
from branchmerge.merge.results import Plan, Progress, Result, Verification
from branchmerge.merge.specs import Method

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from branchmerge.hub.pushing import Pushed

    Checkpoint = str | os.PathLike[str] | Mapping[str, Any]
    Source = str | os.PathLike[str] | Mapping[str, Any]
    Rules = Mapping[str, str] | Iterable[str]
    Report = Callable[[Progress], object]


@dataclass(frozen=True, slots=True)
class Options:
    """How to run, apart from what to make: none of it changes a byte of the result but `shard_size`."""

    out: str | os.PathLike[str] | None = None
    threads: int | None = None
    memory: str | int | None = None
    shard_size: str | int | None = None
    io: str | None = None
    overwrite: bool = False

    def for_engine(self) -> dict[str, Any]:
        """What the engine is given; raises `RecipeError` where a value cannot be meant."""
        if self.threads is not None and not 0 < self.threads <= 1 << 16:
            raise RecipeError(f"`threads` is {self.threads}, expected a number of threads")
        if self.io not in {None, "map", "read"}:
            raise RecipeError(f"`io` is `{shown(str(self.io))}`, expected `map` or `read`")
        return {
            "out": None if self.out is None else _path(self.out, "out"),
            "threads": self.threads,
            "memory": None if self.memory is None else size(self.memory, "memory"),
            "shard_size": None if self.shard_size is None else size(self.shard_size, "shard_size"),
            "io": self.io,
            "overwrite": self.overwrite,
        }


def fuse(
    *checkpoints: Checkpoint,
    method: str = "arcee",
    base: Checkpoint | None = None,
    out: str | os.PathLike[str] | None = None,
    dtype: str | None = None,
    seed: int | None = None,
    allow: Rules = (),
    threads: int | None = None,
    memory: str | int | None = None,
    shard_size: str | int | None = None,
    io: str | None = "read",
    overwrite: bool = False,
    progress: Report | None = None,
    **parameters: Any,
) -> Result:
    """Fuse checkpoints into one, written to the directory `out` (`a-b-arcee` in the working directory by default).

    Further keywords are the method's parameters: one value for all branches, or a list with one a branch. A parameter
    whose name is a word of Python takes an underscore: `lambda_=0.8`. `auto_weight="nan"` and `lines=(0.5, 1.5)` go
    with any method, as in a recipe. Raises `RecipeError` with every problem before anything is written,
    `CheckpointError`, `OutputExists` or `OSError`. The same call again resumes an unfinished one.
    """
    known = methods()
    values = {name.removesuffix("_"): value for name, value in parameters.items()}
    recipe = fused(checkpoints, method=method, base=base, parameters=values, known=known)
    target = default_out(checkpoints, method, known) if out is None else out
    options = Options(target, threads, memory, shard_size, io, overwrite)
    return carry_out(decide(with_flags(recipe, dtype=dtype, seed=seed, allow=allow), options), progress=progress)


def merge(
    recipe: Source,
    out: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    seed: int | None = None,
    allow: Rules = (),
    threads: int | None = None,
    memory: str | int | None = None,
    shard_size: str | int | None = None,
    io: str | None = "read",
    overwrite: bool = False,
    progress: Report | None = None,
) -> Result:
    """Carry out a recipe (a YAML file or a mapping) into the directory `out`; see `fuse` for what is raised."""
    said = with_flags(read_recipe(recipe), dtype=dtype, seed=seed, allow=allow)
    options = Options(out, threads, memory, shard_size, io, overwrite)
    return carry_out(decide(said, options), progress=progress)


def plan(
    recipe: Source,
    out: str | os.PathLike[str] | None = None,
    *,
    dtype: str | None = None,
    seed: int | None = None,
    allow: Rules = (),
    threads: int | None = None,
    memory: str | int | None = None,
    shard_size: str | int | None = None,
    io: str | None = "read",
    overwrite: bool = False,
) -> Plan:
    """Decide everything about a recipe from headers alone: every problem, bytes, memory. Raises nothing for them."""
    try:
        said = with_flags(read_recipe(recipe), dtype=dtype, seed=seed, allow=allow)
        return decide(said, Options(out, threads, memory, shard_size, io, overwrite))
    except BranchmergeError as error:
        return Plan(error.problems)
    except OSError as error:
        return Plan((Problem(str(error), path=error.filename, kind="os"),))


def verify(
    directory: str | os.PathLike[str], *, threads: int | None = None, progress: Report | None = None
) -> Verification:
    """Compare a result with its manifest, byte for byte; what differs stands in `.problems`, by name."""
    said = engine.verify(_path(directory, "directory"), threads, reporting(progress))
    problems = tuple(Problem.from_core({"class": "checkpoint", **one}) for one in said["problems"])
    return Verification(problems, said["tensors"], said["bytes"], said["seconds"])


def push(
    directory: str | os.PathLike[str],
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    progress: Report | None = None,
) -> Pushed:
    """Upload a directory to the hub as `org/name`; a result is compared with its manifest first.

    `revision` is a branch, made where there is none. Weight files that the repository had and the directory has not are
    removed there; hidden files stay here. Raises `RecipeError` where the directory or the name is wrong or the hub does
    not know you, `CheckpointError` where the directory is not what its manifest says.
    """
    to, path = pushing.target(repo, revision), pushing.check(directory)
    if (path / engine.MANIFEST).exists():
        found = verify(path, progress=progress)
        if not found.ok:
            raise from_problems(found.problems)
    if progress is not None:
        progress(Progress("uploading", 0, sum(one.stat().st_size for one in path.rglob("*") if one.is_file()), 0, 0))
    return pushing.push(path, to, private=private, message=message)


def methods() -> dict[str, Method]:
    """All merge methods by name."""
    found = [Method.from_core(said) for said in engine.methods()]
    return {method.name: method for method in found}


def read_recipe(source: Source) -> Recipe:
    """The recipe in a YAML file or a mapping."""
    if isinstance(source, str | os.PathLike):
        from branchmerge.merge import yaml

        return yaml.read(source)
    return from_data(source)


def with_flags(
    recipe: Recipe, *, dtype: str | None, seed: int | None, allow: Rules, tokenizer: str | None = None
) -> Recipe:
    """The recipe, with what was said beside it; that has the last word."""
    keys: dict[str, Any] = {}
    if dtype is not None:
        keys["out_dtype"] = dtype
    if seed is not None:
        keys["seed"] = seed
    if tokenizer is not None:
        keys |= {"tokenizer": None, "tokenizer_source": tokenizer}
    rules = allowing(allow)
    if rules:
        said = recipe.content.get("allow")
        keys["allow"] = {**(said if isinstance(said, dict) else {}), **rules}
    return recipe.having(keys)


def decide(recipe: Recipe, options: Options) -> Plan:
    """The plan of a recipe, its problems in the order of the file."""
    how = options.for_engine()
    if names.said(recipe.content):
        from branchmerge.merge import from_hub

        return from_hub.decide(recipe, how, planned)
    return planned(recipe, how)


def planned(recipe: Recipe, how: Mapping[str, Any]) -> Plan:
    """The plan of a recipe of directories; `how` is what the engine is told beside it."""
    handle, said = engine.plan(recipe.content, how)
    return Plan.from_core(said, problems_of(recipe, said), handle)


def problems_of(recipe: Recipe, said: Mapping[str, Any]) -> tuple[Problem, ...]:
    """What is wrong with a recipe by itself and by its plan, in the order of the file."""
    found = [*recipe.problems, *(recipe.located(Problem.from_core(one)) for one in said["problems"])]
    return tuple(sorted(found, key=lambda problem: (problem.line is None, problem.line or 0)))


def carry_out(decided: Plan, *, progress: Report | None = None) -> Result:
    """Carry a plan out, fetching first what is not here yet; raises all its problems as one error."""
    if decided.fetch is not None and not decided.problems:
        decided = decided.fetch(progress)
    if decided.problems or decided.handle is None:
        raise from_problems(decided.problems)
    sidecars = {model_card.NAME: model_card.write(decided)}
    return Result.from_core(engine.execute(decided.handle, sidecars, reporting(progress)))


def reporting(progress: Report | None) -> Callable[[dict[str, Any]], object] | None:
    """A caller's `progress` as the engine calls it."""
    if progress is None:
        return None
    return lambda said: progress(Progress.from_core(said))


def _path(said: str | os.PathLike[str], name: str) -> str:
    path = os.fsdecode(os.fspath(said))
    try:
        path.encode()
    except UnicodeEncodeError:
        raise RecipeError(f"`{name}` is `{shown(path)}`, which is not UTF-8") from None
    return path
