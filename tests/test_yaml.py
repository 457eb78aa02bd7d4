"""The recipe reader: YAML 1.2, nothing guessed, every problem with its line."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from branchmerge import RecipeError
from branchmerge.merge import yaml
from branchmerge.merge.recipe import Recipe
from hypothesis import given
from hypothesis import strategies as st


def read(text: str) -> Recipe:
    return yaml.parse(text.encode(), file="r.yml")


def refused(text: str) -> list[tuple[int | None, str]]:
    """Lines and sentences of what is wrong, however it is told."""
    try:
        found = read(text).problems
    except RecipeError as error:
        found = error.problems
    return [(problem.line, problem.message) for problem in found]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5), ("1E5", 1e5), ("+.5", 0.5), ("-3", -3), ("0", 0), ("0x1F", 31), ("0o17", 15), ("0.0", 0.0),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None), ("1_000", "1_000"),
        ("12:30", "12:30"), ("2026-11-25", "2026-11-25"), ("'yes'", "yes"), ('"010"', "010"), ("a b", "a b"),
        ("1.", 1.0), ("=", "="), ("123456789012345678901", 1.2345678901234568e20), ("y", "y"), ("./a", "./a"),
        ("'1e-5'", "1e-5"),
    ],
)  # fmt: skip
def test_scalars(text: str, value: Any) -> None:
    found = read(f"a: {text}\n").content["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("word", ["yes", "No", "ON", "off", "010", "-007", ".inf", "-.INF", ".nan"])
def test_what_yaml_readers_disagree_on_is_refused(word: str) -> None:
    ((line, message),) = refused(f"a: 1\nb: {word}\n")
    assert line == 2
    assert f"`{word}`" in message


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "the key `a` stands twice, first in line 1"),
        ("a: {b: 1, b: 2}\n", 1, "twice"),
        ("a: !!str 1\n", 1, "tag"),
        ("a: !x 1\n", 1, "tag"),
        ("a: !!python/object/apply:os.system ['true']\n", 1, "tag"),
        ("a: &a {b: 1}\nc:\n  <<: *a\n", 3, "merge keys"),
        ("a: 1\n---\nb: 1\n", 3, "a second document without a `name`"),
        ("1: a\n", 1, "a key is a text"),
        ("true: a\n", 1, "a key is a text"),
        ("? [a]\n: b\n", 1, "a key is a text"),
        ("a: *b\n", 1, "no anchor"),
        ("a: &a [*a]\n", 1, "inside its own anchor"),
        ("- a\n", 1, "mapping"),
        ("", 1, "empty"),
        ("# nothing\n", 1, "empty"),
        ("just words\n", 1, "mapping"),
        ("a: [1, 2\n", None, "not YAML"),
        ("a: b: c\n", 1, "not YAML"),
        ("a: 1\n\tb: 2\n", 2, "not YAML"),
        ('a: "\\ud800"\n', 1, ""),
        ("a: \x07\n", 1, "not YAML"),
    ],
)
def test_refused(text: str, line: int | None, part: str) -> None:
    ((found, message),) = refused(text)
    assert part in message
    assert line is None or found == line


def test_all_problems_of_a_file_are_told_at_once() -> None:
    found = [line for line, _ in refused("a: yes\na: 1\nb: 010\nc: !x 2\n")]
    assert sorted(line or 0 for line in found) == [1, 2, 3, 4]


def test_not_utf8() -> None:
    with pytest.raises(RecipeError, match="not UTF-8") as caught:
        yaml.parse("a: 1\nb: ä\n".encode("latin-1"), file="r.yml")
    assert caught.value.problems[0].line == 2


def test_lines_of_places() -> None:
    recipe = read("models:\n  - model: a\n    parameters: &p\n      weight: 1\n  - model: b\n    parameters: *p\n")
    assert recipe.lines["models[0].parameters.weight"] == 4
    assert recipe.line("models[1].model") == 5
    assert recipe.line("models[1].parameters.weight") == 4
    assert recipe.line("models[1].nothing.here") == 5
    assert recipe.line("nowhere") is None


def test_anchors_are_written_out() -> None:
    recipe = read("a: &a {x: 1}\nb: *a\nc: [*a, *a]\n")
    assert recipe.content == {"a": {"x": 1}, "b": {"x": 1}, "c": [{"x": 1}, {"x": 1}]}


def test_an_alias_bomb_is_bounded() -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    start = time.perf_counter()
    ((_, message),) = refused("\n".join(lines))
    assert "values" in message
    assert time.perf_counter() - start < 2


def test_depth_is_bounded() -> None:
    ((_, message),) = refused("a: " + "[" * 60 + "]" * 60)
    assert "deep" in message
    assert refused("a: " + "[" * 50_000 + "]" * 50_000)
    assert refused("a: " + "{b: " * 50_000)


def test_size_is_bounded(tmp_path: Path) -> None:
    file = tmp_path / "r.yml"
    file.write_text("a: " + "x" * 1_100_000)
    with pytest.raises(RecipeError, match="larger than"):
        yaml.read(file)


def test_only_regular_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/zero")):
        with pytest.raises(RecipeError, match="not a regular file"):
            yaml.read(path)
    with pytest.raises(RecipeError, match="No such file"):
        yaml.read(tmp_path / "nothing.yml")
    with pytest.raises(RecipeError):
        yaml.read("a\0b")


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    refused(text.encode(errors="ignore").decode())


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(min_size=1, max_size=8), VALUES, min_size=1, max_size=4))
def test_json_is_read_as_itself(data: dict[str, Any]) -> None:
    import json

    text = json.dumps(data)
    if "\\ud" not in text and "<<" not in text:
        assert read(text).content == data
