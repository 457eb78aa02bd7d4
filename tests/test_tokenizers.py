"""The tokens of a result: the base's, a model's, or all; rows of embeddings and heads follow them, row by row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import branchmerge as bm
import checkpoints
import numpy as np
import program
import pytest
from checkpoints import Array
from tokenizers import Tokenizer

ROWS = 12
EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight", "lm_head.bias")
LETTERS = ["<s>", "a", "b", "c", "ab"]
FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
TOKENS: dict[str, tuple[list[str], list[str], int]] = {
    # Pieces, added tokens, and rows of the embeddings.
    "base": (LETTERS, [], ROWS),
    "a": (LETTERS, [], ROWS),
    "chat": (LETTERS, ["<|im_start|>", "<|im_end|>"], ROWS),
    "tool": (LETTERS, ["<|tool|>", "<|im_end|>"], 7),
    "other": (["<s>", "b", "a", "ab", "ba", "c"], ["<|im_end|>"], 7),
}


def shapes(rows: int) -> dict[str, tuple[int, ...]]:
    return dict(zip(EMBEDDINGS, [(rows, 4), (rows, 4), (rows,)], strict=True)) | {"model.layers.0.w.weight": (4, 4)}


def write_tokenizer(directory: Path, pieces: list[str], added: list[str]) -> None:
    merges = [["a", "b"]] + [["b", "a"]] * ("ba" in pieces)
    special = ["<s>", *added]
    rows = {token: row for row, token in enumerate([*pieces, *added])}
    said = {
        "version": "1.0",
        "added_tokens": [{"id": rows[token], "content": token, **FLAGS} for token in special],
        "model": {"type": "BPE", "vocab": {piece: rows[piece] for piece in pieces}, "merges": merges},
    }
    (directory / "tokenizer.json").write_text(json.dumps(said, indent=2, ensure_ascii=False))
    decoder = {str(rows[token]): {"content": token, **FLAGS} for token in special}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "added_tokens_decoder": decoder, "mark": directory.name}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    (directory / "generation_config.json").write_text(json.dumps({"mark": directory.name, "eos_token_id": [1, 4]}))


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for seed, (name, (pieces, added, rows)) in enumerate(TOKENS.items(), 1):
        tensors = checkpoints.weights(seed, of=1, shapes=shapes(rows), dtype="F32")
        config = {"vocab_size": rows, "bos_token_id": 0, "eos_token_id": 4, "torch_dtype": "float32"}
        checkpoints.write(tmp_path / name, tensors, config=config)
        write_tokenizer(tmp_path / name, pieces, added)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe(*names: str, **keys: Any) -> dict[str, Any]:
    listed = [{"model": name, "parameters": {"weight": 1}} for name in names]
    return {"merge_method": "task_arithmetic", "base_model": "base", "models": listed, **keys}


def rows_of(names: tuple[str, ...], tokens: list[str | None], tensor: str, source: str) -> dict[str, Array]:
    """Each model's rows in the order of `tokens`, slowly: its own, the only one's, the base's, or the mean."""
    stored = {name: checkpoints.read(Path(name))[tensor] for name in names}
    own = {name: TOKENS[name][0] + TOKENS[name][1] for name in names}
    found: dict[str, list[Array]] = {name: [] for name in names}
    for row, token in enumerate(tokens):
        have = {name: stored[name][own[name].index(token)] for name in names if token in own[name]}
        for name in names:
            free = [one for one in (name, source) if len(own[one]) <= row < len(stored[one])]
            if token is None and free:
                found[name].append(stored[free[0]][row])
            elif token is None:
                found[name].append(stored[source][: len(own[source])].mean(axis=0))
            elif token in own[name]:
                found[name].append(have[name])
            elif len(have) > 1 and "base" in have:
                found[name].append(have["base"])
            else:
                found[name].append(np.mean(list(have.values()), axis=0))
    return {name: np.array(rows) for name, rows in found.items()}


@pytest.mark.parametrize(
    ("names", "tokenizer", "tokens"),
    [
        (("a", "chat"), "union", [*LETTERS, "<|im_start|>", "<|im_end|>", *[None] * 5]),
        (("chat", "tool"), "union", [*LETTERS, "<|im_start|>", "<|im_end|>", "<|tool|>", *[None] * 4]),
        (("a", "other"), "union", [*LETTERS, "ba", "<|im_end|>", *[None] * 5]),
        (("a", "other"), "base", [*LETTERS, *[None] * 7]),
        (("a", "other"), "other", ["<s>", "b", "a", "ab", "ba", "c", "<|im_end|>"]),
        (("tool", "chat"), "tool", [*LETTERS, "<|tool|>", "<|im_end|>"]),
        (("a",), "a", [*LETTERS, *[None] * 7]),
    ],
)
def test_rows_follow_their_tokens(
    models: Path, names: tuple[str, ...], tokenizer: str, tokens: list[str | None]
) -> None:
    result = bm.merge(recipe(*names, tokenizer_source=tokenizer), out="out")
    source = "base" if tokenizer in {"union", "base"} else tokenizer
    merged = checkpoints.read(models / "out")
    for tensor in EMBEDDINGS:
        rows = rows_of(("base", *names), tokens, tensor, source)
        expected = rows["base"] + sum(rows[name].astype(float) - rows["base"] for name in names)
        assert merged[tensor].shape == expected.shape
        np.testing.assert_allclose(merged[tensor], expected, rtol=2e-6, atol=1e-8)
    assert json.loads((models / "out/config.json").read_text())["vocab_size"] == len(tokens)
    loaded = Tokenizer.from_file("out/tokenizer.json")
    assert {loaded.id_to_token(row): row for row in range(len(tokens)) if tokens[row]} == {
        token: row for row, token in enumerate(tokens) if token
    }
    old = Tokenizer.from_file(f"{source}/tokenizer.json")
    for text in ["abcab", "<s>abba<|im_end|>c"[: 5 if source == "base" else None], "cba"]:
        assert loaded.encode(text).ids == old.encode(text).ids
    assert bm.verify("out").ok
    assert result.status == "done"


def test_files_are_kept_but_for_what_is_new(models: Path) -> None:
    bm.merge(recipe("chat", tokenizer_source="union"), out="out")
    settings = json.loads((models / "out/tokenizer_config.json").read_text())
    assert settings["mark"] == "base"
    assert settings["added_tokens_decoder"]["6"] == {"content": "<|im_end|>", **FLAGS}
    assert json.loads((models / "out/generation_config.json").read_text())["mark"] == "base"
    # Edited text, not text written anew: the base's file is what is left without the two new lines.
    old, new = ((models / f"{name}/tokenizer.json").read_text().splitlines() for name in ("base", "out"))
    assert [line for line in new if "im_" not in line] == [line + "," * (line == "    }") for line in old][: len(new)]


def test_special_tokens_of_config_follow_their_rows(models: Path) -> None:
    bm.merge(recipe("other", tokenizer_source="other"), out="out")
    # The base's "a" was at 1 and is at 2 now, its "ab" was at 4 and is at 3.
    assert json.loads((models / "out/config.json").read_text())["eos_token_id"] == 3
    assert json.loads((models / "out/generation_config.json").read_text())["eos_token_id"] == [2, 3]


@pytest.mark.parametrize(
    ("source", "force", "expected"),
    [
        ("chat", True, ("chat", 0)),
        ("chat", False, None),
        ({"kind": "model_token", "model": "chat", "token": "<|im_end|>"}, True, ("chat", 6)),
        ({"kind": "model_token", "model": "other", "token_id": 2}, True, ("other", 2)),
        ({"kind": "zero"}, True, None),
    ],
)
def test_single_tokens_come_from_where_it_is_said(
    models: Path, source: Any, *, force: bool, expected: tuple[str, int] | None
) -> None:
    said = {"source": "union", "tokens": {"<s>": {"source": source, "force": force}}}
    bm.merge(recipe("chat", "other", tokenizer=said), out="out")
    row = checkpoints.read(models / "out")[EMBEDDINGS[0]][0]
    if expected:
        np.testing.assert_array_equal(row, checkpoints.read(models / expected[0])[EMBEDDINGS[0]][expected[1]])
    elif force:
        assert not row.any()
    else:
        plain = [checkpoints.read(models / name)[EMBEDDINGS[0]][0].astype(float) for name in ("base", "chat", "other")]
        np.testing.assert_allclose(row, plain[1] + plain[2] - plain[0], rtol=2e-6, atol=1e-8)


def test_the_number_of_rows_may_be_a_multiple(models: Path) -> None:
    said = {"source": "other", "pad_to_multiple_of": 16}
    bm.merge(recipe("other", tokenizer=said), out="out")
    merged = checkpoints.read(models / "out")
    assert merged[EMBEDDINGS[0]].shape == (16, 4)
    other = checkpoints.read(models / "other")[EMBEDDINGS[0]]
    np.testing.assert_allclose(merged[EMBEDDINGS[0]][15], other.mean(axis=0), rtol=1e-6)
    assert json.loads((models / "out/config.json").read_text())["vocab_size"] == 16


def test_threads_and_ways_to_read_make_no_difference(models: Path) -> None:
    said = recipe("chat", "other", tokenizer={"source": "union", "pad_to_multiple_of": 64})
    for out, threads, io in (("one", 1, "map"), ("two", 2, "read")):
        bm.merge(said, out=out, threads=threads, io=io)
    assert (models / "one/model.safetensors").read_bytes() == (models / "two/model.safetensors").read_bytes()


def test_a_changed_tokenizer_is_a_changed_recipe(models: Path) -> None:
    said = recipe("chat", tokenizer_source="union")
    bm.merge(said, out="out")
    assert bm.merge(said, out="out").status == "up to date"
    write_tokenizer(models / "chat", LETTERS, ["<|im_end|>", "<|im_start|>"])
    with pytest.raises(bm.OutputExists):
        bm.merge(said, out="out")


def test_other_files_tell_tokens_too(models: Path) -> None:
    for name in ("base", "chat"):
        pieces, added, _ = TOKENS[name]
        (models / name / "tokenizer.json").unlink()
        (models / name / "vocab.json").write_text(json.dumps({piece: row for row, piece in enumerate(pieces)}))
        more = {token: row for row, token in enumerate(added, len(pieces))}
        (models / name / "added_tokens.json").write_text(json.dumps(more))
    bm.merge(recipe("chat", tokenizer_source="union"), out="out")
    assert json.loads((models / "out/added_tokens.json").read_text()) == {"<|im_start|>": 5, "<|im_end|>": 6}
    rows = checkpoints.read(models / "out")[EMBEDDINGS[0]][5:7]
    np.testing.assert_array_equal(rows, checkpoints.read(models / "chat")[EMBEDDINGS[0]][5:7])


def test_pieces_of_sentencepiece_are_read(models: Path) -> None:
    """`tokenizer.model` is a protocol buffer: pieces with text, score and kind, and other fields after them."""

    def piece(text: str) -> bytes:
        inner = bytes([10, len(text.encode())]) + text.encode() + b"\x15\x00\x00\x80\xbf\x18\x01"
        return bytes([10, len(inner)]) + inner

    for name in ("base", "chat"):
        pieces, added, _ = TOKENS[name]
        (models / name / "tokenizer.json").unlink()
        (models / name / "tokenizer.model").write_bytes(b"".join(map(piece, pieces)) + b"\x12\x02\x08\x01")
        if added:
            more = {token: row for row, token in enumerate(added, len(pieces))}
            (models / name / "added_tokens.json").write_text(json.dumps(more))
    bm.merge(recipe("chat", tokenizer_source="union"), out="out")
    assert json.loads((models / "out/added_tokens.json").read_text()) == {"<|im_start|>": 5, "<|im_end|>": 6}
    assert (models / "out/tokenizer.model").read_bytes() == (models / "base/tokenizer.model").read_bytes()
    rows = checkpoints.read(models / "out")[EMBEDDINGS[0]][5:7]
    np.testing.assert_array_equal(rows, checkpoints.read(models / "chat")[EMBEDDINGS[0]][5:7])


def test_embeddings_of_other_names_matter_only_where_tokens_differ(models: Path) -> None:
    for name in ("base", "a", "chat"):
        tensors = checkpoints.weights(1, shapes={"backbone.tokens.weight": (ROWS, 4)}, dtype="F32")
        checkpoints.write(models / name, tensors)
    bm.merge(recipe("a", tokenizer_source="base"), out="out")
    with pytest.raises(bm.RecipeError, match="it has no embeddings whose rows could be put in order"):
        bm.merge(recipe("chat", tokenizer_source="union"), out="other")


def test_tokens_that_config_names_and_the_result_lacks_are_told(models: Path) -> None:
    said = json.loads((models / "base/config.json").read_text())
    (models / "base/config.json").write_text(json.dumps({**said, "eos_token_id": 5}))
    write_tokenizer(models / "base", LETTERS, ["<end>"])
    warnings = bm.plan(recipe("other", tokenizer_source="other")).warnings
    assert "`eos_token_id` of config.json names a token that the result has not" in warnings


def test_heads_with_other_rows_than_the_embeddings_are_refused(models: Path) -> None:
    tensors = checkpoints.read(models / "chat")
    tensors["lm_head.weight"] = np.zeros((ROWS + 2, 4), np.float32)
    checkpoints.write_file(models / "chat/model.safetensors", tensors)
    problems = bm.plan(recipe("chat", tokenizer_source="union")).problems
    assert any("it has 14 rows, and the embeddings have 12" in str(problem) for problem in problems)


def test_heads_inside_layers_follow_their_tokens(models: Path) -> None:
    """Layers that predict later tokens have embeddings and a head of their own."""
    inner = {"model.layers.1.embed_tokens.weight": (0, 4), "model.layers.1.shared_head.head.weight": (0, 4)}
    for name in ("base", "other"):
        tensors = checkpoints.read(models / name)
        copies = dict.fromkeys(inner, tensors[EMBEDDINGS[0]])
        checkpoints.write_file(models / name / "model.safetensors", {**tensors, **copies})
    bm.merge(recipe("other", tokenizer_source="other"), out="out")
    merged = checkpoints.read(models / "out")
    for name in inner:
        np.testing.assert_array_equal(merged[name], merged[EMBEDDINGS[0]])


def test_words_of_a_tokenizer_without_merges_are_told(models: Path) -> None:
    said = json.loads((models / "base/tokenizer.json").read_text())
    said["model"]["ignore_merges"] = True
    (models / "base/tokenizer.json").write_text(json.dumps(said))
    warnings = bm.plan(recipe("other", tokenizer_source="union")).warnings
    assert any("words that are such pieces become them" in warning for warning in warnings)


def test_flags_name_a_tokenizer(models: Path) -> None:
    flags = ["--method", "task_arithmetic", "-p", "weight=1", "--tokenizer", "union", "-o", "out"]
    said = program.run("fuse", "a", "chat", "--base", "base", *flags, cwd=models)
    assert said.returncode == 0, said.stderr
    assert "`chat` brings 2 tokens, from row 5 on, such as `<|im_start|>`" in said.stderr


def test_the_result_loads_in_transformers(models: Path) -> None:
    transformers = pytest.importorskip("transformers")
    bm.merge(recipe("chat", tokenizer_source="union"), out="out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(models / "out")
    assert tokenizer("ab<|im_end|>").input_ids == [4, 6]
    assert "<|im_end|>" in tokenizer.all_special_tokens or tokenizer.decode([6], skip_special_tokens=True) == ""


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"tokenizer_source": "mroe"}, "unknown model `mroe`"),
        ({"tokenizer_source": "base", "tokenizer": {"source": "base"}}, "say the same"),
        ({"tokenizer": {"sources": "base"}}, "unknown key `sources`"),
        ({"tokenizer": 3}, "expected `{source: base}`"),
        ({"tokenizer": {"tokens": {"<z>": {"source": "a"}}}}, "unknown token `<z>`"),
        ({"tokenizer": {"tokens": {"<s>": {"source": "none"}}}}, "unknown model `none`"),
        ({"tokenizer": {"tokens": {"<s>": {}}}}, "`source`"),
        ({"tokenizer": {"tokens": {"<s>": {"source": "a", "forced": True}}}}, "unknown key `forced`"),
        ({"tokenizer": {"tokens": {"<s>": {"source": {"kind": "zeros"}}}}}, "expected `{kind: zero}`"),
        ({"tokenizer": {"tokens": {"<|im_end|>": {"source": "a"}}}}, "it has no row for the token `<|im_end|>`"),
        ({"tokenizer": {"pad_to_multiple_of": 0}}, "expected a number from 1"),
    ],
)
def test_what_cannot_be_carried_is_told(models: Path, keys: dict[str, Any], message: str) -> None:
    del models
    plan = bm.plan(recipe("a", "chat", **keys))
    assert any(message in str(problem) for problem in plan.problems), plan
