"""Makes one branch: a short full fine-tuning of the base on one domain, read from top to bottom. Weights and moments
are float32; the branch is saved in bfloat16, as branches are. Seeded; the loss of every tenth step is told on stderr.
"""

import random
import sys
import time
from pathlib import Path

import torch
from real.model import batch, load
from real.texts import Sample


def finetune(
    base: Path, samples: list[Sample], out: Path, *, steps: int, rate: float, size: int = 4, seed: int = 0
) -> None:
    torch.manual_seed(seed)
    model, tokenizer = load(base)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.01)
    warmup = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (steps - step) / (steps - warmup))
    )
    order = random.Random(seed)  # noqa: S311 (an order, not a secret)
    started = time.monotonic()
    for step in range(steps):
        loss = model(**batch(tokenizer, order.sample(samples, size))).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 10 == 0 or step == steps - 1:
            print(f"{out.name}: step {step}, loss {loss:.3f}, {time.monotonic() - started:.0f} s", file=sys.stderr)
    partial = out.with_name(out.name + ".partial")
    model.to(torch.bfloat16).save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(out)
