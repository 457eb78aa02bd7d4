"""A small real tokenizer for the demo: byte-level byte-pair encoding, trained on a page of text in a blink."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

SIZE = 512
"""Tokens: two special ones, the 256 bytes, and what was learned."""
SPECIAL = ("<|begin|>", "<|end|>")
CONFIG = {
    "bos_token": SPECIAL[0],
    "clean_up_tokenization_spaces": False,
    "eos_token": SPECIAL[1],
    "model_max_length": 512,
    "pad_token": SPECIAL[1],
    "tokenizer_class": "PreTrainedTokenizerFast",
}
TEXT = """
A branch is a copy of one student, trained on one domain of a teacher: mathematics, code or science. Each branch
learns what the others do not, and each forgets a little of what all of them knew. To merge is to make one model of
the branches again, so that it keeps what every one of them learned. The difference of a branch from another is
small almost everywhere and large in a few places, and the few places carry the skill. Fusion measures how much
every row of a tensor changed, weighs each difference with that, and takes the differences that stand out; all
other weights stay as they were. Nothing is sampled and nothing is left to chance: the quartiles are exact, a taken
weight is the branch's own, bit for bit, and the same inputs give the same bytes on every machine. The result can
be checked at any time, because the manifest names every tensor with its hash. When a run is interrupted, the same
command goes on where it stopped. First fuse science with mathematics, then fuse the result with code: this is the
order in which the released model was made.
def area(width, height): return width * height
for index in range(10): print(index, index ** 2)
The sum of the angles of a triangle is 180 degrees, and the square of 12 is 144. Water boils at 100 degrees, light
travels 300000 kilometres in one second, and the energy of a body at rest is its mass times the square of the speed
of light.
"""
WORD = re.compile(r" ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens in the order of their ids, and the merges in the order they were learned."""

    tokens: tuple[str, ...]
    merges: tuple[tuple[str, str], ...]

    @property
    def size(self) -> int:
        """How many tokens there are."""
        return len(self.tokens)

    def file(self) -> dict[str, Any]:
        """The content of `tokenizer.json`."""
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": index, "content": token, **flags} for index, token in enumerate(SPECIAL)],
            "normalizer": None,
            "pre_tokenizer": byte_level,
            "post_processor": None,
            "decoder": byte_level,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": {token: index for index, token in enumerate(self.tokens)},
                "merges": [list(pair) for pair in self.merges],
            },
        }


def train() -> Vocabulary:
    """Learn the most frequent pairs of `TEXT`, one by one; of equally frequent ones the first in the alphabet."""
    letters = _letters()
    counts = Counter(WORD.findall(TEXT))
    words = {word: [letters[byte] for byte in word.encode()] for word in counts}
    merges: list[tuple[str, str]] = []
    while len(SPECIAL) + len(letters) + len(merges) < SIZE:
        found: Counter[tuple[str, str]] = Counter()
        for word, parts in words.items():
            for pair in pairwise(parts):
                found[pair] += counts[word]
        best = min(found, key=lambda pair: (-found[pair], pair))
        merges.append(best)
        for parts in words.values():
            _join(parts, best)
    return Vocabulary((*SPECIAL, *letters, *(left + right for left, right in merges)), tuple(merges))


def _join(parts: list[str], pair: tuple[str, str]) -> None:
    at = 0
    while at < len(parts) - 1:
        if (parts[at], parts[at + 1]) == pair:
            parts[at : at + 2] = [pair[0] + pair[1]]
        at += 1


def _letters() -> list[str]:
    """A visible letter for every byte: itself where it is one, else the next of those from U+0100 on."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte) if byte in visible else chr(next(spare)) for byte in range(256)]
