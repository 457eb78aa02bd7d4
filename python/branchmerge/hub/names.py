"""Which words of a recipe are names of the hub: `org/name`, `org/name@revision`, alone or joined by `+` to an adapter.

What exists as a path is a path, and what looks like one never goes to the hub. Nothing here asks anybody.
"""

from __future__ import annotations

import copy
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

WORD = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}"
NAME = re.compile(rf"({WORD}/{WORD})(?:@([A-Za-z0-9_][A-Za-z0-9._/-]{{0,254}}))?")
LISTS = ("models", "sources")
TOKENIZERS = ("tokenizer", "tokenizer_source")
"""Keys of a recipe that may name one of its models again."""


@dataclass(frozen=True, slots=True, order=True)
class Name:
    """A repository of the hub, and the revision of it that is meant (its main branch where none is said)."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        """As it is written in a recipe."""
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"


@dataclass(frozen=True, slots=True)
class Part:
    """A model, or the adapter after a `+`: a name of the hub, or a path as it stands."""

    said: str
    name: Name | None
    adapter: bool


@dataclass(frozen=True, slots=True)
class Said:
    """A word of a recipe in which a name of the hub stands."""

    at: str
    """Its place: `models[1].model`."""
    word: str
    parts: tuple[Part, ...]


def parsed(word: str) -> Name | None:
    """The name of the hub that a word is by its looks."""
    match = NAME.fullmatch(word)
    if match is None or ".." in word or "--" in match[1] or match[1].endswith((".git", "-", ".")):
        return None
    if match[2] and (match[2].endswith(("/", ".lock")) or "//" in match[2]):
        return None
    return Name(match[1], match[2])


def parts(word: str) -> tuple[Part, ...]:
    """What a model's word is made of, if a name of the hub is among it; nothing where it is local."""
    if os.path.lexists(word):
        return ()
    found = []
    for number, said in enumerate(word.split("+")):
        name = None if os.path.lexists(said) else parsed(said)
        found.append(Part(said, name, adapter=number > 0))
    return tuple(found) if any(part.name for part in found) else ()


def said(content: Mapping[str, Any]) -> list[Said]:
    """All places of a recipe where a name of the hub stands for a model."""
    found = []
    for holder, key, at in _models(content, ""):
        word = holder[key]
        if isinstance(word, str) and "\0" not in word:
            made_of = parts(word)
            if made_of:
                found.append(Said(at, word, made_of))
    return found


def replaced(content: Mapping[str, Any], paths: Mapping[str, str]) -> dict[str, Any]:
    """The recipe with paths in the place of names, also where it speaks of its models' tokenizers."""
    result: dict[str, Any] = copy.deepcopy(dict(content))
    for holder, key, _ in _models(result, ""):
        if isinstance(holder[key], str):
            holder[key] = paths.get(holder[key], holder[key])
    for key in TOKENIZERS:
        if key in result:
            result[key] = _renamed(result[key], paths)
    return result


def _models(content: Any, at: str) -> Iterator[tuple[Any, str, str]]:
    """Every place of a model: what holds it, under which key, and where that is."""
    if not isinstance(content, dict):
        return
    place = f"{at}." if at else ""
    if "base_model" in content:
        yield from _model(content, "base_model", f"{place}base_model")
    for key in LISTS:
        listed = content.get(key)
        for number, entry in enumerate(listed if isinstance(listed, list) else ()):
            if isinstance(entry, dict) and "model" in entry:
                yield from _model(entry, "model", f"{place}{key}[{number}].model")
    slices = content.get("slices")
    for number, one in enumerate(slices if isinstance(slices, list) else ()):
        yield from _models(one, f"{place}slices[{number}]")
    modules = content.get("modules")
    for name, one in modules.items() if isinstance(modules, dict) else ():
        yield from _models(one, f"{place}modules.{name}")


def _model(holder: dict[str, Any], key: str, at: str) -> Iterator[tuple[Any, str, str]]:
    """A model, and those of the recipe that may stand in its place."""
    yield holder, key, at
    yield from _models(holder[key], at)


def _renamed(value: Any, paths: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _renamed(inner, paths) for key, inner in value.items()}
    if isinstance(value, list):
        return [_renamed(inner, paths) for inner in value]
    if not isinstance(value, str):
        return value
    word = value.removeprefix("model:")
    return value[: len(value) - len(word)] + paths.get(word, word)
