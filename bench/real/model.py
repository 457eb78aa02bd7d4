"""What fine-tuning and evaluating share: a checkpoint loaded for arithmetic in float32, and samples as token batches
whose labels are -100 (no loss) outside the answer.
"""

from pathlib import Path
from typing import Any

import torch
from real.texts import Sample
from transformers import AutoModelForCausalLM, AutoTokenizer

IGNORED = -100


def load(directory: Path) -> tuple[Any, Any]:
    """Model and tokenizer, from files alone."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, local_files_only=True)
    return model, AutoTokenizer.from_pretrained(directory, local_files_only=True)


def prompt(tokenizer: Any, question: str) -> str:
    turns = [{"role": "user", "content": question}]
    return tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)


def batch(tokenizer: Any, samples: list[Sample]) -> dict[str, torch.Tensor]:
    """Padded on the right; no sample is cut."""
    rows = []
    for sample in samples:
        asked = tokenizer(prompt(tokenizer, sample.question), add_special_tokens=False).input_ids
        said = tokenizer(sample.answer + tokenizer.eos_token, add_special_tokens=False).input_ids
        rows.append((asked + said, [IGNORED] * len(asked) + said))
    width = max(len(tokens) for tokens, _ in rows)
    return {
        "input_ids": torch.tensor([tokens + [tokenizer.pad_token_id] * (width - len(tokens)) for tokens, _ in rows]),
        "attention_mask": torch.tensor([[1] * len(tokens) + [0] * (width - len(tokens)) for tokens, _ in rows]),
        "labels": torch.tensor([labels + [IGNORED] * (width - len(labels)) for _, labels in rows]),
    }
