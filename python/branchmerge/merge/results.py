"""What a plan, a merge and a verification tell: plain data, read from the engine's JSON."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any

from branchmerge.errors import Problem, bounded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from branchmerge import _core


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a merge or a verification is."""

    phase: str
    """`fetching` (from the hub), `checking` what an earlier run left, `surveying` the model, `merging`, `syncing`;
    `uploading` (to the hub; how far is not told)."""
    bytes_done: int
    bytes_total: int
    tensors_done: int
    tensors_total: int

    @classmethod
    def from_core(cls, said: Mapping[str, Any]) -> Progress:
        """Read it from the engine's JSON."""
        counts = ("bytes_done", "bytes_total", "tensors_done", "tensors_total")
        return cls(str(said.get("phase", "")), *(int(said.get(name) or 0) for name in counts))


@dataclass(frozen=True, slots=True)
class Input:
    """One checkpoint that is read."""

    label: str
    path: str
    tensors: int
    bytes: int
    dtypes: dict[str, int] = field(default_factory=dict)
    """Tensors by dtype."""

    @classmethod
    def from_core(cls, said: Mapping[str, Any]) -> Input:
        """Read it from the engine's JSON."""
        return cls(said["label"], said["path"], said["tensors"], said["bytes"], dict(said.get("dtypes") or {}))


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything decided about a merge, or every problem of it; made from headers alone."""

    problems: tuple[Problem, ...]
    warnings: tuple[str, ...] = ()
    method: str | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    """The recipe in full, with labels instead of paths."""
    inputs: tuple[Input, ...] = ()
    base: str | None = None
    """The base's label."""
    out: str | None = None
    output: dict[str, Any] = field(default_factory=dict)
    """`tensors`, `elements`, `bytes`, `files` (name and bytes), `dtypes`."""
    read_bytes: int = 0
    write_bytes: int = 0
    passes: dict[str, int] = field(default_factory=dict)
    """How many tensors are read once, twice …"""
    memory: dict[str, Any] = field(default_factory=dict)
    """`private` bytes needed, `threads`, `bound`."""
    disk: dict[str, Any] = field(default_factory=dict)
    """`needed` and `free` bytes."""
    sidecars: tuple[str, ...] = ()
    """The small files that the result carries."""
    allowed: tuple[dict[str, Any], ...] = ()
    """What an `allow` rule lets through: rule, tensor, branch."""
    state: str = "new"
    """`new`, or `resumes` where an earlier run left off."""
    fetch_bytes: int = 0
    """Weights that the hub has and this machine does not yet: they are fetched before the merge."""
    handle: _core.Plan | None = field(default=None, repr=False, compare=False)
    """The engine's own plan."""
    fetch: Callable[[Callable[[Progress], object] | None], Plan] | None = field(default=None, repr=False, compare=False)
    """Where weights are to be fetched: fetches them, and gives the plan that can be carried out."""
    held: object = field(default=None, repr=False, compare=False)
    """What must not go before the plan does: the directories it reads."""

    @classmethod
    def from_core(cls, said: Mapping[str, Any], problems: tuple[Problem, ...], handle: _core.Plan) -> Plan:
        """Read it from the engine's JSON; `problems` have their lines already."""
        return cls(
            problems=problems,
            warnings=tuple(said.get("warnings") or ()),
            method=said.get("method"),
            recipe=dict(said.get("recipe") or {}),
            inputs=tuple(Input.from_core(one) for one in said.get("inputs") or ()),
            base=said.get("base"),
            out=said.get("out"),
            output=dict(said.get("output") or {}),
            read_bytes=said.get("read_bytes") or 0,
            write_bytes=said.get("write_bytes") or 0,
            passes=dict(said.get("passes") or {}),
            memory=dict(said.get("memory") or {}),
            disk=dict(said.get("disk") or {}),
            sidecars=tuple(said.get("sidecars") or ()),
            allowed=tuple(said.get("allowed") or ()),
            state=said.get("state") or "new",
            handle=handle,
        )

    @property
    def ok(self) -> bool:
        """Whether nothing stands in the way of the merge."""
        return not self.problems

    def __str__(self) -> str:
        """The problems, or one line of figures."""
        if self.problems:
            return "\n".join(bounded(self.problems, prefix=""))
        tensors, size = self.output.get("tensors"), self.output.get("bytes")
        return f"{self.method}: {tensors} tensors, {size} bytes, from {self.read_bytes} bytes read"


@dataclass(frozen=True, slots=True)
class Result:
    """What a merge did."""

    out: str
    status: str
    """`done`, or `up to date` where the target held this very result."""
    method: str
    inputs: tuple[str, ...]
    """Their labels."""
    tensors: int
    elements: int
    bytes_read: int
    bytes_written: int
    seconds: float
    private_peak: int
    """Bytes of private memory at the peak (mapped files are not counted)."""
    threads: int
    resumed_tensors: int
    """Tensors that an earlier, unfinished run had written."""
    share_taken: float | None
    """Elements taken from the other branch and changed by it, of all; for methods that take elements."""
    surveys: tuple[dict[str, Any], ...]
    """What was found over the whole model before the work: `weight` or `cut`, one number a branch."""
    warnings: tuple[str, ...]
    allowed: tuple[dict[str, Any], ...]
    statistics: dict[str, dict[str, Any]] = field(repr=False)
    """What the method tells of each tensor."""

    @classmethod
    def from_core(cls, said: Mapping[str, Any]) -> Result:
        """Read it from the engine's JSON."""
        counts = ("tensors", "elements", "bytes_read", "bytes_written", "private_peak", "threads", "resumed_tensors")
        return cls(
            out=said["out"],
            status=said["status"],
            method=said.get("method") or "",
            inputs=tuple(said.get("inputs") or ()),
            seconds=float(said.get("seconds") or 0.0),
            share_taken=(said.get("shares") or {}).get("share_taken"),
            surveys=tuple((said.get("shares") or {}).get("surveys") or ()),
            warnings=tuple(said.get("warnings") or ()),
            allowed=tuple(said.get("allowed") or ()),
            statistics=dict(said.get("statistics") or {}),
            **{name: int(said.get(name) or 0) for name in counts},
        )


@dataclass(frozen=True, slots=True)
class Verification:
    """Whether a result still matches its manifest."""

    problems: tuple[Problem, ...]
    tensors: int
    bytes: int
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether every byte is as the manifest says."""
        return not self.problems


def as_data(value: Any) -> Any:
    """A result as JSON holds it: every field but the engine's own handle."""
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: as_data(getattr(value, one.name)) for one in fields(value) if one.compare}
    if isinstance(value, dict):
        return {key: as_data(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [as_data(inner) for inner in value]
    return value
