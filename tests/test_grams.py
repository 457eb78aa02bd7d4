"""`branchmerge grams`: what the layers of a running model are multiplied with, against hooks that keep every input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import branchmerge as bm
import checkpoints
import numpy as np
import program
import pytest
from branchmerge.merge import demo

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TEXTS = ["A branch is a copy of one student.", "def area(width, height): return width * height", "The sum is 144."]


@pytest.fixture(scope="module")
def branches(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return demo.make(tmp_path_factory.mktemp("demo"))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    rows = [{"text": TEXTS[0]}, {"text": TEXTS[1]}, {"text": TEXTS[2], "more": 1}]
    (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    return tmp_path / "texts.jsonl"


def inputs_of(checkpoint: Path, length: int = 1024) -> tuple[dict[str, Any], dict[str, Any], int]:
    """All rows that each linear layer sees, all that each norm makes, and the number of tokens."""
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype="auto").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    linear: dict[str, list[Any]] = {}
    norms: dict[str, list[Any]] = {}

    def keep(name: str, module: Any, inputs: Any, output: Any) -> None:
        if isinstance(module, torch.nn.Linear):
            linear.setdefault(f"{name}.weight", []).append(inputs[0][0].double().numpy())
        elif "Norm" in type(module).__name__:
            rows = output[0] / module.weight.detach()
            norms.setdefault(f"{name}.weight", []).append(rows.double().numpy())

    for name, module in model.named_modules():
        module.register_forward_hook(lambda m, i, o, name=name: keep(name, m, i, o))
    tokens = 0
    with torch.inference_mode():
        for text in TEXTS:
            ids = tokenizer(text)["input_ids"][:length]
            tokens += len(ids)
            model(input_ids=torch.tensor([ids]))
    del linear["lm_head.weight"]
    return {k: np.concatenate(v) for k, v in linear.items()}, {k: np.concatenate(v) for k, v in norms.items()}, tokens


@pytest.mark.parametrize("memory", ["8GiB", "1KiB"])
def test_they_are_the_products_of_all_inputs(branches: list[Path], texts: Path, tmp_path: Path, memory: str) -> None:
    from branchmerge.merge.grams import grams

    seen: list[bm.Progress] = []
    found = grams(branches[0], texts, tmp_path / "grams.safetensors", memory=memory, progress=seen.append)
    linear, norms, tokens = inputs_of(branches[0])
    stored = checkpoints.read(tmp_path)
    assert (found.texts, found.tokens, found.cut, found.left_out) == (3, tokens, 0, ())
    assert found.tensors == len(stored) == len(linear) + len(norms)
    for name, rows in linear.items():
        np.testing.assert_allclose(stored[name], rows.T @ rows, rtol=1e-3, atol=1e-2 * np.abs(rows).max() ** 2)
    for name, rows in norms.items():
        np.testing.assert_allclose(stored[name], (rows**2).sum(0), rtol=2e-2)
    assert seen[-1].tensors_done == seen[-1].tensors_total
    assert (seen[-1].tensors_total > 3) == (memory == "1KiB")


def test_they_merge(branches: list[Path], texts: Path, tmp_path: Path) -> None:
    from branchmerge.merge.grams import grams

    files = []
    for branch in branches[1:]:
        files.append(tmp_path / f"{branch.name}.safetensors")
        grams(branch, texts, files[-1])
    for method in ("regmean", "lot"):
        bm.fuse(*branches[1:], base=branches[0], method=method, grams=files, out=tmp_path / method)
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / method)
    assert bm.verify(tmp_path / "lot").ok


def test_the_command(branches: list[Path], texts: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "g.safetensors")
    said = program.run("grams", str(branches[0]), "--texts", str(texts), "-o", out, "--length", "5", "--limit", "2")
    assert said.returncode == 0, said.stderr
    assert "texts" in said.stdout
    assert "2 of 2 texts are longer than 5 tokens: they were cut" in said.stderr
    again = program.run("grams", str(branches[0]), "--texts", str(texts), "-o", out)
    assert again.returncode == 1
    assert "is there already" in again.stderr
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "holds no text"), ("{]\n", "line 1 .* is no JSON"), ('{"a": 1}\n', "neither `text` nor `messages`")],
)
def test_wrong_texts_are_told(branches: list[Path], tmp_path: Path, content: str, message: str) -> None:
    from branchmerge.merge.grams import grams

    (tmp_path / "t.jsonl").write_text(content)
    with pytest.raises(bm.RecipeError, match=message):
        grams(branches[0], tmp_path / "t.jsonl", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
