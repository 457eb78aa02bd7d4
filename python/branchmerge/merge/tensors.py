"""Merging tensors in memory: mappings of numpy arrays or torch CPU tensors go in, one of the same kind comes out.

The engine reads the tensors where they are and writes into tensors made here; nothing is copied. Neither numpy nor
torch is imported: whoever passes a tensor has.
"""

from __future__ import annotations

import ctypes
import sys
import warnings
from typing import TYPE_CHECKING, Any

from branchmerge.errors import RecipeError, from_problems, shown
from branchmerge.merge import engine, functions
from branchmerge.merge.recipe import BESIDE, fused

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from branchmerge.merge.functions import Report, Rules

    Tensors = dict[str, "_Numpy | _Torch"]

NAMES = {
    "bfloat16": "BF16", "float16": "F16", "float32": "F32", "float64": "F64", "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2", "int8": "I8", "int16": "I16", "int32": "I32", "int64": "I64", "uint8": "U8",
    "uint16": "U16", "uint32": "U32", "uint64": "U64", "bool": "BOOL", "complex64": "C64",
}  # fmt: skip
"""The stored name of each dtype, by its name in numpy and torch."""


def fuse_tensors(
    models: Sequence[Mapping[str, Any]],
    *,
    base: Mapping[str, Any] | None = None,
    method: str = "arcee",
    dtype: str | None = None,
    seed: int | None = None,
    allow: Rules = (),
    threads: int | None = None,
    memory: str | int | None = None,
    progress: Report | None = None,
    **parameters: Any,
) -> dict[str, Any]:
    """Fuse state dicts in memory: the same bits as a fusion of their files.

    `models` and `base` map names to numpy arrays or contiguous torch CPU tensors of any shape. `base` may be one of the
    models. Returns new tensors of the same kind, in the order of the base's (else the first model's) names. Further
    keywords are the method's parameters, as `fuse` takes them; `importance` and `grams` are mappings, one a branch. No
    input is copied; `memory` bounds what the engine
    takes besides. Raises `RecipeError` with every problem, `CheckpointError` for a tensor that cannot be merged.
    """
    labels = [f"model {number}" for number in range(len(models))]
    lent = dict(zip(labels, models, strict=True))
    named = None if base is None else next((label for label, model in lent.items() if model is base), "base")
    if base is not None and named == "base":
        lent["base"] = base
    known = functions.methods()
    values = {name.removesuffix("_"): value for name, value in parameters.items()}
    for name in BESIDE:
        beside = {f"{name} {number}": one for number, one in enumerate(values.get(name) or ())}
        lent |= beside
        values |= {name: list(beside)} if beside else {}
    recipe = fused(labels, method=method, base=named, parameters=values, known=known)
    recipe = functions.with_flags(recipe, dtype=dtype, seed=seed, allow=allow)
    options = functions.Options(threads=threads, memory=memory).for_engine()
    kinds = {label: {name: _tensor(label, name, one) for name, one in model.items()} for label, model in lent.items()}
    checkpoints = [(label, [_lend(name, one) for name, one in tensors.items()]) for label, tensors in kinds.items()]
    handle, said = engine.plan_lent(recipe.content, options, checkpoints)
    problems = functions.problems_of(recipe, said)
    if problems:
        raise from_problems(problems)
    for text in said["warnings"]:
        warnings.warn(text, stacklevel=2)
    donor = kinds[said["base"] or labels[0]]
    merged = {name: _room(donor, kinds.values(), name, stored, shape) for name, stored, shape in handle.tensors()}
    engine.fuse_lent(handle, [one.bytes() for one in merged.values()], functions.reporting(progress))
    order = [*(name for name in donor if name in merged), *(name for name in merged if name not in donor)]
    return {name: merged[name].value for name in order}


class _Numpy:
    """An array of numpy; ml_dtypes' dtypes are as good as its own."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.stored = NAMES[value.dtype.name]
        if not value.flags.c_contiguous:
            raise ValueError("it is not contiguous, expected an array whose elements lie in order")

    def bytes(self) -> object:
        return memoryview(self.value.reshape(-1).view("uint8"))

    def like(self, dtype: Any, shape: list[int]) -> _Numpy:
        return _Numpy(sys.modules["numpy"].empty(shape, dtype))


class _Torch:
    """A tensor of torch in the memory of the CPU."""

    def __init__(self, value: Any) -> None:
        self.value = value.detach()
        self.stored = NAMES[str(value.dtype).removeprefix("torch.")]
        if value.device.type != "cpu":
            raise ValueError(f"it is on {value.device}, expected a tensor on the CPU (`.cpu()`)")
        if str(value.layout) != "torch.strided" or not value.is_contiguous():
            raise ValueError("it is not contiguous, expected a tensor whose elements lie in order (`.contiguous()`)")

    def bytes(self) -> object:
        length = self.value.numel() * self.value.element_size()
        # The tensor keeps the memory; torch has no buffers of its own, and its way through numpy knows no bfloat16.
        return memoryview((ctypes.c_uint8 * length).from_address(self.value.data_ptr()) if length else bytearray())

    def like(self, dtype: Any, shape: list[int]) -> _Torch:
        return _Torch(sys.modules["torch"].empty(shape, dtype=dtype))


def _lend(name: str, tensor: _Numpy | _Torch) -> tuple[str, str, list[int], object]:
    """What the engine is told of a tensor."""
    return name, tensor.stored, list(tensor.value.shape), tensor.bytes()


def _tensor(label: str, name: str, value: Any) -> _Numpy | _Torch:
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    what = f"it is {shown(type(value).__name__)}, expected a numpy array or a torch tensor"
    try:
        if torch is not None and isinstance(value, torch.Tensor):
            return _Torch(value)
        if numpy is not None and isinstance(value, numpy.ndarray):
            return _Numpy(value)
    except KeyError:
        what = f"its dtype {value.dtype} is none that safetensors knows"
    except ValueError as error:
        what = str(error)
    raise RecipeError(f"`{shown(str(name))}` of {label}: {what}")


def _room(donor: Tensors, models: Iterable[Tensors], name: str, stored: str, shape: list[int]) -> _Numpy | _Torch:
    """A new tensor for a result: of the library of the donor, with the dtype that its stored name says."""
    example = donor.get(name) or next(one[name] for one in models if name in one)
    if example.stored == stored:
        return example.like(example.value.dtype, shape)
    word = next(word for word, known in NAMES.items() if known == stored)
    if isinstance(example, _Torch):
        return example.like(getattr(sys.modules["torch"], word), shape)
    try:
        return example.like(word, shape)
    except TypeError:
        hint = "import ml_dtypes, which brings it to numpy, or ask for another `dtype`"
        raise RecipeError(f"numpy knows no {word}", hint=hint) from None
