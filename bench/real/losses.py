"""How well a checkpoint knows a domain: the mean loss, in nats a token, of held-out answers given their questions; and
what it says itself.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from real.model import IGNORED, batch, load, prompt
from real.texts import Domain, Sample


def losses(checkpoint: Path, domains: dict[str, Domain]) -> tuple[dict[str, float], dict[str, str]]:
    """By domain: the loss, and a greedy answer to the first held-out question."""
    model, tokenizer = load(checkpoint)
    model.eval()
    with torch.inference_mode():
        loss = {name: mean_loss(model, tokenizer, domain.held_out) for name, domain in domains.items()}
        said = {name: answer(model, tokenizer, domain.held_out[0].question) for name, domain in domains.items()}
    return loss, said


def mean_loss(model: Any, tokenizer: Any, samples: list[Sample]) -> float:
    """Over all answer tokens, each of the same weight; samples of like length share a batch."""
    total, tokens = 0.0, 0
    for group in grouped(sorted(samples, key=lambda sample: len(sample.question + sample.answer)), size=8):
        rows = batch(tokenizer, group)
        learnt = int((rows["labels"][:, 1:] != IGNORED).sum())
        total += float(model(**rows).loss) * learnt
        tokens += learnt
    return total / tokens


def grouped(samples: list[Sample], size: int) -> Iterator[list[Sample]]:
    yield from (samples[start : start + size] for start in range(0, len(samples), size))


def answer(model: Any, tokenizer: Any, question: str) -> str:
    asked = tokenizer(prompt(tokenizer, question), add_special_tokens=False, return_tensors="pt")
    said = model.generate(**asked, max_new_tokens=120, do_sample=False)
    return str(tokenizer.decode(said[0, asked.input_ids.shape[1] :], skip_special_tokens=True))
