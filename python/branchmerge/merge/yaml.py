"""Recipes from YAML files: YAML 1.2 scalars, nothing guessed, every value with its line.

Recipes are written by hand and passed around, so this reader is strict where YAML is treacherous: a key that stands
twice, a bare `no`, an `010`, a tag, a merge key are problems with a line and a way out, and all of them are told at
once. Anchors and aliases work, but cannot grow a small file into a large recipe.
"""

from __future__ import annotations

import math
import os
import re
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import yaml

from branchmerge.errors import Problem, RecipeError, from_problems, shown
from branchmerge.merge.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGEST = 1_000_000
"""Bytes of the largest recipe."""
DEEPEST = 40
"""Levels of nesting."""
MOST_VALUES = 50_000
"""Values of a recipe, with every alias written out."""

NULL = {"", "~", "null", "Null", "NULL"}
TRUE = {"true", "True", "TRUE"}
FALSE = {"false", "False", "FALSE"}
YAML_1_1 = {"yes": True, "on": True, "no": False, "off": False}
DECIMAL = re.compile(r"[-+]?[0-9]+")
OTHER_BASE = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
LONGEST_INTEGER = 18
"""Digits of an integer; a longer one is read as a float, as JSON readers do."""


@dataclass(slots=True)
class Node:
    """A value as written: a scalar, a list of nodes, or pairs of key and node."""

    line: int
    scalar: Any = None
    items: list[Node] | None = None
    pairs: list[tuple[Node, Node]] | None = None
    whole: bool = True
    """False while its end has not been read: an alias to it would contain itself."""


def read(path: str | os.PathLike[str]) -> Recipe:
    """The recipe in the file at `path`; raises `RecipeError` where it cannot be read at all."""
    return parse(_bytes(os.fspath(path)), file=os.fspath(path))


def parse(data: bytes, *, file: str) -> Recipe:
    """The recipe in `data`. Problems that leave the rest readable stand in the recipe, so that all are told at once."""
    reader = Reader(file)
    try:
        text = data.decode("utf-8-sig")
        roots = reader.documents(text)
    except UnicodeDecodeError as error:
        reader.stop("the file is not UTF-8", data[: error.start].count(b"\n") + 1)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reader.stop(f"not YAML: {error.problem or error.context}", mark.line + 1 if mark else None)
    except yaml.reader.ReaderError as error:
        reader.stop(f"not YAML: {error.reason}", text[: error.position].count("\n") + 1)
    for root in roots:
        if root.pairs is None:
            hint = "a recipe begins like `merge_method: arcee`"
            empty = root.scalar is None and not root.items
            reader.stop("the file is empty" if empty else "a recipe is a mapping of keys", root.line, hint)
    content = reader.value(reader.last_stage(roots), "")
    reader.unused_stages()
    return Recipe(content, file=file, lines=reader.lines, problems=tuple(reader.problems))


def scalar(text: str) -> Any:
    """A value from the command line, by the same rules; raises `RecipeError` where a recipe would have a problem."""
    reader = Reader(None)
    value = reader.scalar(text, 0)
    if reader.problems:
        raise from_problems(reader.problems)
    return value


@dataclass(slots=True)
class Reader:
    """Events become nodes, nodes become values; problems and lines are gathered on the way."""

    file: str | None
    lines: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    anchors: dict[str, Node] = field(default_factory=dict)
    values: int = 0
    stages: dict[str, Node] = field(default_factory=dict)
    """Documents that have a name, which stands for them where a model is named."""
    used: list[str] = field(default_factory=list)
    """Stages that stand for a model somewhere."""
    around: list[str] = field(default_factory=list)
    """Stages that the value at hand is inside of."""

    def documents(self, text: str) -> list[Node]:
        """The documents of `text`, at least one."""
        events: Iterator[Any] = iter(yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
        around = yaml.StreamStartEvent | yaml.StreamEndEvent | yaml.DocumentStartEvent | yaml.DocumentEndEvent
        roots = [self.node(event, events, 0) for event in events if not isinstance(event, around)]
        return roots or [Node(1)]

    def last_stage(self, roots: list[Node]) -> Node:
        """The document that is the result: the one without a name; the others are noted by theirs."""
        last: Node | None = None
        for root in roots:
            named = next((pair for pair in root.pairs or () if pair[0].scalar == "name"), None)
            if named is None or len(roots) == 1:
                if last is not None:
                    hint = "give all documents but the result a `name`, by which the others take them for a model"
                    self.stop("a second document without a `name` begins here", root.line, hint)
                last = root
                continue
            name = str(named[1].scalar)
            if name in self.stages:
                self.problem(f"two documents have the name `{shown(name)}`", named[0].line)
            root.pairs = [pair for pair in root.pairs or () if pair is not named]
            self.stages[name] = root
        if last is None:
            self.stop("every document has a `name`", roots[-1].line, "leave it out of the one that is the result")
        return last

    def unused_stages(self) -> None:
        """Note documents that nothing is made of."""
        for name, root in self.stages.items():
            if name not in self.used:
                self.problem(f"no other document takes `{shown(name)}` for a model", root.line)

    def stage(self, name: str, place: str, line: int) -> Any:
        """The merge that a name of a document stands for."""
        if name in self.around:
            self.stop(f"the document `{shown(name)}` is made of itself", line)
        self.used.append(name)
        self.around.append(name)
        found = self.value(self.stages[name], place)
        self.around.pop()
        return found

    def node(self, event: Any, events: Iterator[Any], depth: int) -> Node:
        """The node that begins with `event`."""
        line = event.start_mark.line + 1
        if depth > DEEPEST:
            self.stop(f"nested more than {DEEPEST} levels deep", line)
        if isinstance(event, yaml.AliasEvent):
            return self.alias(str(event.anchor), line)
        if event.tag is not None:
            self.problem(f"the tag `{shown(event.tag)}` is not taken", line, "remove it: a recipe holds plain values")
        node = Node(line, whole=False)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        if isinstance(event, yaml.ScalarEvent):
            node.scalar = self.scalar(event.value, line) if event.implicit[0] else self.text(event.value, line)
        elif isinstance(event, yaml.SequenceStartEvent):
            node.items = [self.node(inner, events, depth + 1) for inner in _until(events, yaml.SequenceEndEvent)]
        else:
            node.pairs = [
                (self.node(key, events, depth + 1), self.node(next(events), events, depth + 1))
                for key in _until(events, yaml.MappingEndEvent)
            ]
        node.whole = True
        return node

    def alias(self, anchor: str, line: int) -> Node:
        """The node that `*anchor` stands for."""
        node = self.anchors.get(anchor)
        if node is None:
            self.stop(f"the alias `*{shown(anchor)}` has no anchor before it", line)
        if not node.whole:
            self.stop(f"the alias `*{shown(anchor)}` stands inside its own anchor", line)
        return node

    def scalar(self, text: str, line: int) -> Any:
        """A plain scalar by the rules of YAML 1.2; what YAML 1.1 would have read otherwise is a problem."""
        if text in NULL:
            return None
        if text in TRUE or text in FALSE:
            return text in TRUE
        if text.lower() in YAML_1_1:
            meant = YAML_1_1[text.lower()]
            hint = f'write {str(meant).lower()} or "{text}"'
            self.problem(f"a bare `{text}` means different things to YAML readers", line, hint)
            return meant
        if NOT_FINITE.fullmatch(text):
            return self.number("inf", line, text)
        if LEADING_ZERO.fullmatch(text):
            plain = text.lstrip("+-0") or "0"
            self.problem(f"`{shown(text)}` begins with 0", line, f'write {shown(plain)}, or "{shown(text)}" for a text')
            return 0
        if OTHER_BASE.fullmatch(text):
            return int(text, 0)
        if DECIMAL.fullmatch(text):
            return int(text) if len(text) <= LONGEST_INTEGER else self.number(text, line)
        if FLOAT.fullmatch(text):
            return self.number(text, line)
        return self.text(text, line)

    def number(self, text: str, line: int, said: str | None = None) -> float:
        """A finite number; what is too large for one is a problem."""
        number = float(text)
        if math.isfinite(number):
            return number
        self.problem(f"`{shown(said or text)}` is not a finite number", line)
        return 0.0

    def text(self, text: str, line: int) -> str:
        """A text that UTF-8 can hold."""
        if any("\ud800" <= char <= "\udfff" for char in text):
            self.problem("half a character (a lone surrogate)", line)
            return "?"
        return text

    def value(self, node: Node, place: str) -> Any:
        """The value of `node`, every alias written out, its line noted."""
        self.values += 1
        if self.values > MOST_VALUES:
            self.stop(f"more than {MOST_VALUES} values when every alias is written out", node.line)
        self.lines.setdefault(place, node.line)
        if node.items is not None:
            return [self.value(item, f"{place}[{index}]") for index, item in enumerate(node.items)]
        if node.pairs is None:
            return node.scalar
        found: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key, inner in node.pairs:
            name = self.key(key)
            if name in first:
                self.problem(f"the key `{shown(name)}` stands twice, first in line {first[name]}", key.line)
                continue
            first[name] = key.line
            inside = f"{place}.{name}" if place else name
            self.lines[inside] = key.line
            stands = name in {"model", "base_model"} and isinstance(inner.scalar, str) and inner.scalar in self.stages
            found[name] = self.stage(inner.scalar, inside, inner.line) if stands else self.value(inner, inside)
        return found

    def key(self, node: Node) -> str:
        """A key, which is a text."""
        if node.items is not None or node.pairs is not None:
            self.stop("a key is a text, not a list or mapping", node.line)
        if node.scalar == "<<":
            self.problem("merge keys (`<<`) are not taken", node.line, "write the keys out, or use an alias as a value")
        if not isinstance(node.scalar, str):
            self.problem(f"a key is a text, found {node.scalar!r}", node.line, "put it in quotes")
        return str(node.scalar)

    def problem(self, message: str, line: int | None, hint: str | None = None) -> None:
        """Note a problem that leaves the rest readable."""
        self.problems.append(Problem(message, hint, file=self.file, line=line))

    def stop(self, message: str, line: int | None, hint: str | None = None) -> NoReturn:
        """Raise what is wrong so far: the rest cannot be read."""
        self.problem(message, line, hint)
        raise from_problems(self.problems)


def _until(events: Iterator[Any], end: type) -> Iterator[Any]:
    for event in events:
        if isinstance(event, end):
            return
        yield event


def _bytes(path: str) -> bytes:
    """The bytes of a regular file of at most `LARGEST` bytes; a FIFO or a device must neither hang nor flood."""

    def refuse(message: str, hint: str | None = None) -> RecipeError:
        return RecipeError(f"{shown(path)}: {message}", hint=hint, path=path,
                           problems=[Problem(message, hint, file=path, path=path)])  # fmt: skip

    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise refuse(getattr(error, "strerror", None) or str(error)) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise refuse("not a regular file", "a recipe is a YAML file")
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(LARGEST + 1)
    finally:
        os.close(descriptor)
    if len(data) > LARGEST:
        raise refuse(f"larger than {LARGEST} bytes, which no recipe is")
    return data
