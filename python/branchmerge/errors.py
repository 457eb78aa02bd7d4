"""What can go wrong, as Python sees it.

```
BranchmergeError            .hint .tensor .branch .path .problems
├── RecipeError             also a ValueError: the recipe or the command is wrong; nothing was written
├── CheckpointError         a file is not what its header says, or holds what a merge must not touch
└── OutputExists            the target is there already and is something else
OSError                     as it is, with errno and filename (and `.hint` where there is one)
KeyboardInterrupt           cancelled; the same call again resumes
```
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LONGEST_MESSAGE = 20_000
"""Characters of the longest message, however many things are wrong."""

LONGEST_NAME = 200
"""Characters of the longest name or path that is shown whole."""

HIDDEN = {*range(0x200B, 0x2010), *range(0x2028, 0x202F), *range(0x2066, 0x206A), 0xFEFF}
"""Marks that reorder or hide text on a screen."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: the sentence, what to do about it, and where it is."""

    message: str
    hint: str | None = None
    at: str | None = None
    """The place in the recipe: `models[1].parameters.weight`."""
    file: str | None = None
    """The recipe's file."""
    line: int | None = None
    """The line of `at` in `file`, from 1."""
    tensor: str | None = None
    branch: str | None = None
    path: str | None = None
    kind: str = "recipe"
    """`recipe`, `checkpoint`, `output_exists` or `os`: which exception it becomes."""

    def __str__(self) -> str:
        """`FILE:LINE: message`, or the message alone."""
        if self.file is None:
            return self.message
        place = shown(self.file) if self.line is None else f"{shown(self.file)}:{self.line}"
        return f"{place}: {self.message}"

    @classmethod
    def from_core(cls, said: Mapping[str, Any]) -> Problem:
        """Read one from the engine's JSON."""
        names = ("hint", "at", "tensor", "branch", "path")
        return cls(said["message"], kind=said.get("class") or "recipe", **{name: said.get(name) for name in names})


class BranchmergeError(Exception):
    """The root of what this package raises itself."""

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        tensor: str | None = None,
        branch: str | None = None,
        path: str | None = None,
        problems: Iterable[Problem] = (),
    ) -> None:
        super().__init__(message)
        self.hint = hint
        self.tensor = tensor
        self.branch = branch
        self.path = path
        self.problems = tuple(problems) or (Problem(message, hint, tensor=tensor, branch=branch, path=path),)


class RecipeError(BranchmergeError, ValueError):
    """The recipe or the command is wrong; nothing was written. `.problems` has everything that is."""


class CheckpointError(BranchmergeError):
    """A file is not what its header says, or a tensor holds what must not be merged."""


class OutputExists(BranchmergeError):  # noqa: N818 (the name is a promise)
    """The target is there already and is something else."""


KINDS: dict[str, type[BranchmergeError]] = {
    "recipe": RecipeError,
    "checkpoint": CheckpointError,
    "output_exists": OutputExists,
    "os": BranchmergeError,
}


def from_core(text: str) -> BaseException:
    """The exception for an error of the engine, which hands over its JSON."""
    said = json.loads(text)
    kind = said.get("class") or "recipe"
    if kind == "cancelled":
        return KeyboardInterrupt(said["message"])
    if kind == "os" and said.get("errno") is not None:
        return _os_error(said)
    problems = [replace(Problem.from_core(one), kind=one.get("class") or kind) for one in said.get("problems") or ()]
    names = ("hint", "tensor", "branch", "path")
    return KINDS[kind](said["message"], problems=problems, **{name: said.get(name) for name in names})


def from_problems(problems: Iterable[Problem], kind: str | None = None) -> BranchmergeError:
    """One exception for everything that is wrong: of the kind they share, else the recipe's."""
    found = tuple(problems)
    kinds = {problem.kind for problem in found}
    raised = KINDS[kind or (kinds.pop() if len(kinds) == 1 else "recipe")]
    if len(found) == 1:
        (one,) = found
        return raised(str(one), hint=one.hint, tensor=one.tensor, branch=one.branch, path=one.path, problems=found)
    hint = next((problem.hint for problem in found if problem.hint), None)
    return raised("\n".join([f"{len(found)} problems", *bounded(found)]), hint=hint, problems=found)


def bounded(problems: Iterable[Problem], *, prefix: str = "  - ", room: int = LONGEST_MESSAGE - 100) -> list[str]:
    """One line a problem, as many as fit the longest message; the last line tells how many were left out."""
    lines: list[str] = []
    waiting = list(problems)
    while waiting:
        line = prefix + str(waiting[0])
        if len(line) + 1 > room and lines:
            lines.append(f"{prefix}… and {len(waiting)} more")
            break
        lines.append(cut(line, room))
        room -= len(lines[-1]) + 1
        waiting.pop(0)
    return lines


def shown(name: str) -> str:
    """A name as it may be shown: control characters and hiding marks escaped, a long one cut in the middle."""
    start = name[: LONGEST_NAME * 8]
    safe = "".join(char if char.isprintable() and ord(char) not in HIDDEN else _escaped(char) for char in start)
    return cut(safe, LONGEST_NAME)


def cut(text: str, longest: int) -> str:
    """`text`, its middle left out where it is longer than `longest`."""
    if len(text) <= longest:
        return text
    return f"{text[: longest * 2 // 3]} … {text[-(longest // 4) :]}"


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def _os_error(said: Mapping[str, Any]) -> OSError:
    error = OSError(said["errno"], said["message"], said.get("path"))
    error.hint = said.get("hint")  # type: ignore[attr-defined]
    return error
