"""`chat_template:` of a recipe: a known one, one's own, or the one that most models have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import branchmerge as bm
import checkpoints
import pytest

SHAPES = {"model.embed_tokens.weight": (8, 4), "model.layers.0.w.weight": (4, 4)}
TALK = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
]
ENDS = {"bos_token": "<s>", "eos_token": "</s>"}
RENDERED = {
    "chatml": "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
    "alpaca": "Be short.\n\n### Instruction:\nHi\n\n### Response:\nHello</s>\n\n"
    "### Instruction:\nBye\n\n### Response:\n",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe short.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    "Hello<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "<s>[INST] Be short.\n\nHi [/INST] Hello</s>[INST] Bye [/INST]",
    "exaone": "[|system|]Be short.[|endofturn|]\n[|user|]Hi\n"
    "[|assistant|]Hello[|endofturn|]\n[|user|]Bye\n[|assistant|]",
}


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for seed, name in enumerate(("base", "a", "b", "c"), 1):
        checkpoints.write(tmp_path / name, checkpoints.weights(seed, of=1, shapes=SHAPES))
        settings = {
            "bos_token": "<s>",
            "tokenizer_class": "PreTrainedTokenizerFast",
            "chat_template": f"{{{{ '{name}' }}}}",
        }
        (tmp_path / name / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def merged(template: Any) -> tuple[str, str]:
    """The template's file and what the settings say."""
    listed = [{"model": name, "parameters": {"weight": 1}} for name in ("a", "b", "c")]
    recipe = {"merge_method": "task_arithmetic", "base_model": "base", "models": listed, "chat_template": template}
    bm.merge(recipe, out="out")
    assert bm.verify("out").ok
    return Path("out/chat_template.jinja").read_text(), Path("out/tokenizer_config.json").read_text()


@pytest.mark.parametrize("name", RENDERED)
def test_known_templates_say_what_their_models_expect(models: Path, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    del models
    text, settings = merged(name)
    assert json.loads(settings)["chat_template"] == text
    inner = tokenizers.Tokenizer(tokenizers.models.BPE({"<s>": 0}, []))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **ENDS)
    said = tokenizer.apply_chat_template(TALK, chat_template=text, tokenize=False, add_generation_prompt=True)
    assert said == RENDERED[name]


def test_settings_are_kept_but_for_the_template(models: Path) -> None:
    text, settings = merged("{{ messages[0]['content'] }}")
    assert text == "{{ messages[0]['content'] }}"
    assert settings == (models / "base/tokenizer_config.json").read_text().replace("{{ 'base' }}", text)


def test_most_models_decide(models: Path) -> None:
    (models / "b/chat_template.jinja").write_text("{{ 'c' }}")
    assert merged("auto")[0] == "{{ 'c' }}"


@pytest.mark.parametrize(("template", "message"), [("chatlm", "did you mean `chatml`"), (3, "a number")])
def test_what_is_no_template_is_told(models: Path, template: Any, message: str) -> None:
    del models
    with pytest.raises(bm.RecipeError) as raised:
        merged(template)
    assert message in f"{raised.value} {raised.value.hint}"
