"""What the layers of a model are multiplied with: Gram matrices XᵀX of their inputs, for `regmean` and `lot`.

A file of them is safetensors: for the weight of a linear layer, under its name, inputs by inputs; for the scale of a
norm the sums of the squares that it multiplies. The model runs text by text, with no padding, as often as the matrices
fit into memory; heads and embeddings are left out.
"""

from __future__ import annotations

import json
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from branchmerge.errors import BranchmergeError, CheckpointError, OutputExists, RecipeError, shown
from branchmerge.merge.recipe import size
from branchmerge.merge.results import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Row = str | list[dict[str, Any]]

LONGEST_LINE = 1 << 24
"""Characters of the longest row of texts that is read."""


@dataclass(frozen=True, slots=True)
class Grams:
    """What was collected."""

    out: str
    tensors: int
    """Weights with a matrix, and scales with squares."""
    texts: int
    tokens: int
    cut: int
    """Texts that were longer than `length` tokens: the rest of them was not seen."""
    left_out: tuple[str, ...]
    """Weights of layers with more inputs than `widest`."""
    bytes: int
    seconds: float


def grams(
    checkpoint: str | os.PathLike[str],
    texts: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    limit: int = 256,
    length: int = 1024,
    widest: int = 16384,
    memory: str | int = "8GiB",
    device: str = "cpu",
    progress: Callable[[Progress], object] | None = None,
) -> Grams:
    """Run a model over texts and write what its layers are multiplied with to the file `out`.

    `texts` is a file of JSON lines with `text` or `messages` (of the model's chat template), or of plain lines; its
    first `limit` rows are taken, of each the first `length` tokens. Layers with more than `widest` inputs are left out.
    `memory` bounds the matrices that are kept at once: where they do not fit, the model runs several times. Raises
    `RecipeError` for texts that cannot be read, `OutputExists`, and `BranchmergeError` where torch or transformers is
    missing. `progress` is told of texts, where a merge tells of tensors.
    """
    started = time.monotonic()
    target = Path(os.fsdecode(os.fspath(out)))
    if os.path.lexists(target):
        raise OutputExists(f"`{shown(str(target))}` is there already", hint="name another file, or remove it")
    rows = list(_rows(texts, limit))
    torch, model, tokenizer = _loaded(checkpoint, device)
    samples = [_tokens(tokenizer, row, length) for row in rows]
    layers = list(_layers(torch, model))
    left_out = tuple(layer.name for layer in layers if layer.inputs > widest)
    kept = [layer for layer in layers if layer.inputs <= widest]
    if not kept:
        raise CheckpointError("the model has no layer whose inputs can be collected", hint="raise `--widest`")
    tokens = sum(len(ids) for ids, _ in samples)
    rounds = list(_rounds(kept, size(memory, "memory")))
    done = 0
    with _Writer(target, kept, {"texts": str(len(samples)), "tokens": str(tokens)}) as writer:
        for some in rounds:
            with _Watch(torch, some, device) as watch, torch.inference_mode():
                for ids, _ in samples:
                    model(input_ids=torch.tensor([ids], device=device), use_cache=False)
                    done += 1
                    if progress is not None:
                        progress(Progress("collecting", 0, 0, done, len(rounds) * len(samples)))
            writer.write(watch.found())
    seconds = time.monotonic() - started
    cut = sum(was_cut for _, was_cut in samples)
    return Grams(str(target), len(kept), len(samples), tokens, cut, left_out, target.stat().st_size, seconds)


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer to be watched."""

    name: str
    """Of its weight, as the checkpoint has it."""
    module: Any
    inputs: int
    norm: bool

    @property
    def shape(self) -> list[int]:
        return [self.inputs] if self.norm else [self.inputs, self.inputs]

    @property
    def bytes(self) -> int:
        return 4 * self.inputs * (1 if self.norm else self.inputs)


def _layers(torch: Any, model: Any) -> Iterator[_Layer]:
    """Linear layers but the head, and the scales of norms."""
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, torch.nn.Parameter) or module is head:
            continue
        if isinstance(module, torch.nn.Linear):
            yield _Layer(f"{name}.weight", module, module.in_features, norm=False)
        elif weight.dim() == 1 and "norm" in type(module).__name__.lower():
            yield _Layer(f"{name}.weight", module, weight.numel(), norm=True)


def _rounds(layers: Sequence[_Layer], bound: int) -> Iterator[list[_Layer]]:
    """As many layers at once as the bound holds, at least one."""
    some: list[_Layer] = []
    for layer in layers:
        if some and sum(one.bytes for one in some) + layer.bytes > bound:
            yield some
            some = []
        some.append(layer)
    yield some


class _Watch:
    """Adds up what some layers are multiplied with, while it is open."""

    def __init__(self, torch: Any, layers: Sequence[_Layer], device: str) -> None:
        self.torch = torch
        self.layers = layers
        self.sums = {one.name: torch.zeros(one.shape, dtype=torch.float32, device=device) for one in layers}
        self.inside = False
        self.last: tuple[Any, Any] = (None, None)

    def __enter__(self) -> Self:
        self.hooks = [
            layer.module.register_forward_hook(
                lambda module, inputs, _, layer=layer: self._see(layer, module, inputs[0])
            )
            for layer in self.layers
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def _see(self, layer: _Layer, module: Any, seen: Any) -> None:
        if self.inside:
            return
        if layer.norm:
            self.sums[layer.name] += self._normed(module, seen).reshape(-1, layer.inputs).float().square().sum(0)
            return
        # Queries, keys and values share what they are multiplied with.
        if self.last[0] is not seen:
            rows = seen.reshape(-1, layer.inputs).float()
            self.last = (seen, rows.T @ rows)
        self.sums[layer.name] += self.last[1]

    def _normed(self, module: Any, seen: Any) -> Any:
        """What the scale of a norm multiplies, up to a factor: the norm with all scales 1 and nothing added."""
        values = {name: value * 0 + (1 if name == "weight" else 0) for name, value in module.named_parameters()}
        self.inside = True
        try:
            return self.torch.func.functional_call(module, values, (seen,))
        finally:
            self.inside = False

    def found(self) -> Iterator[tuple[_Layer, bytes]]:
        """The sums, each once; those that are not finite are an error."""
        for layer in self.layers:
            values = self.sums.pop(layer.name).cpu()
            if not bool(self.torch.isfinite(values).all()):
                raise CheckpointError("what the layer is multiplied with is not finite", tensor=layer.name)
            yield layer, values.numpy().tobytes()


class _Writer:
    """A safetensors file that appears under its name once it is whole."""

    def __init__(self, target: Path, layers: Sequence[_Layer], said: dict[str, str]) -> None:
        self.target, self.partial = target, target.with_name(f"{target.name}.partial")
        header: dict[str, Any] = {"__metadata__": said}
        end = 0
        for layer in layers:
            header[layer.name] = {"dtype": "F32", "shape": layer.shape, "data_offsets": [end, end := end + layer.bytes]}
        text = json.dumps(header).encode()
        self.head = struct.pack("<Q", len(text) + -len(text) % 8) + text + b" " * (-len(text) % 8)

    def __enter__(self) -> Self:
        self.file = self.partial.open("wb")
        self.file.write(self.head)
        return self

    def write(self, found: Iterator[tuple[_Layer, bytes]]) -> None:
        """The next layers, in their order."""
        for _, values in found:
            self.file.write(values)

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        with self.file:
            if failed is None:
                self.file.flush()
                os.fsync(self.file.fileno())
        if failed is None:
            self.partial.replace(self.target)
        else:
            self.partial.unlink()


def _rows(texts: str | os.PathLike[str], limit: int) -> Iterator[Row]:
    """The first rows of a file: texts, or lists of messages."""
    path = Path(os.fsdecode(os.fspath(texts)))
    name, count = shown(str(path)), 0
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if len(line) > LONGEST_LINE:
                raise RecipeError(f"line {number} of `{name}` is longer than {LONGEST_LINE} characters")
            if line.strip() and count < limit:
                count += 1
                lines_of_json = path.suffix in {".json", ".jsonl"}
                yield _row(line, f"line {number} of `{name}`") if lines_of_json else line.rstrip("\n")
    if not count:
        raise RecipeError(f"`{name}` holds no text", hint="lines of JSON with `text` or `messages`, or plain lines")


def _row(line: str, where: str) -> Row:
    try:
        said = json.loads(line)
    except ValueError as error:
        raise RecipeError(f"{where} is no JSON: {error}") from None
    found = said.get("text", said.get("messages")) if isinstance(said, dict) else None
    if not isinstance(found, str | list) or not found:
        raise RecipeError(f"{where} has neither `text` nor `messages`")
    return found


def _loaded(checkpoint: str | os.PathLike[str], device: str) -> tuple[Any, Any, Any]:
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        hint = "pip install 'branchmerge[grams]'"
        raise BranchmergeError(
            f"collecting Gram matrices runs the model, and {error.name} is missing", hint=hint
        ) from None
    path = os.fsdecode(os.fspath(checkpoint))
    model = AutoModelForCausalLM.from_pretrained(path, dtype="auto").to(device).eval()
    return torch, model, AutoTokenizer.from_pretrained(path)


def _tokens(tokenizer: Any, row: Row, length: int) -> tuple[list[int], bool]:
    """A text as the model sees it, and whether it was cut."""
    if isinstance(row, str):
        ids = tokenizer(row)["input_ids"]
    else:
        ids = tokenizer.apply_chat_template(row, tokenize=True, return_dict=True)["input_ids"]
    return ids[:length], len(ids) > length
