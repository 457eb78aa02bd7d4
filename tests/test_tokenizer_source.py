"""Whose tokenizer a result carries: the base's, a model's, or one with the tokens of all where the base has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import branchmerge as bm
import checkpoints
import program
import pytest

SHAPES = {"model.embed_tokens.weight": (8, 4), "model.layers.0.w.weight": (4, 4)}
TOKENS = ["<s>", "a", "b", "c"]


def tokenizer(directory: Path, tokens: list[str], mark: str) -> None:
    vocabulary = {token: row for row, token in enumerate(tokens)}
    said = {"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": vocabulary, "merges": []}}
    (directory / "tokenizer.json").write_text(json.dumps(said))
    (directory / "tokenizer_config.json").write_text(json.dumps({"mark": mark}))
    (directory / "generation_config.json").write_text(json.dumps({"mark": mark}))


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for seed, (name, tokens) in enumerate({"base": TOKENS, "a": TOKENS, "more": [*TOKENS, "<|im_end|>"]}.items(), 1):
        checkpoints.write(tmp_path / name, checkpoints.weights(seed, of=1, shapes=SHAPES))
        tokenizer(tmp_path / name, tokens, name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe(*names: str, **keys: Any) -> dict[str, Any]:
    listed = [{"model": name, "parameters": {"weight": 1}} for name in names]
    return {"merge_method": "task_arithmetic", "base_model": "base", "models": listed, **keys}


def marks(out: Path) -> dict[str, str]:
    return {
        name: json.loads((out / f"{name}.json").read_text())["mark"]
        for name in ("tokenizer_config", "generation_config")
    }


@pytest.mark.parametrize(
    ("keys", "carried"),
    [
        ({}, "base"),
        ({"tokenizer_source": "base"}, "base"),
        ({"tokenizer_source": "union"}, "base"),
        ({"tokenizer": {}}, "base"),
        ({"tokenizer_source": "a"}, "a"),
        ({"tokenizer_source": "model:a"}, "a"),
        ({"tokenizer": {"source": "a"}}, "a"),
    ],
)
def test_the_files_are_those_of_the_source(models: Path, keys: dict[str, Any], carried: str) -> None:
    bm.merge(recipe("a", **keys), out="out")
    # All else is the base's.
    assert marks(models / "out") == {"tokenizer_config": carried, "generation_config": "base"}
    assert bm.verify("out").ok


def test_a_model_with_more_tokens_may_give_them_where_there_are_rows(models: Path) -> None:
    flags = ["--method", "task_arithmetic", "-p", "weight=1", "--tokenizer", "more", "-o", "out"]
    said = program.run("fuse", "a", "more", "--base", "base", *flags, cwd=models)
    assert said.returncode == 0, said.stderr
    assert "that of `base` has 1 tokens fewer" in said.stderr
    assert marks(models / "out")["tokenizer_config"] == "more"
    tokenizer(models / "more", [str(n) for n in range(9)], "more")
    with pytest.raises(bm.RecipeError, match="a token at 8, and the embeddings of `base` have 8 rows"):
        bm.merge(recipe("more", tokenizer_source="more"), out="other")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"tokenizer_source": "union"}, "1 tokens that `base` lacks, such as `<|im_end|>`"),
        ({"tokenizer_source": "mroe"}, "unknown model `mroe`"),
        ({"tokenizer_source": "base", "tokenizer": {"source": "base"}}, "say the same"),
        ({"tokenizer": {"sources": "base"}}, "unknown key `sources`"),
        ({"tokenizer": {"tokens": {}}}, "`tokens` of a tokenizer is not understood yet"),
        ({"tokenizer": 3}, "expected `{source: base}`"),
    ],
)
def test_what_cannot_be_carried_is_told(models: Path, keys: dict[str, Any], message: str) -> None:
    del models
    plan = bm.plan(recipe("a", "more", **keys))
    assert any(message in str(problem) for problem in plan.problems), plan
