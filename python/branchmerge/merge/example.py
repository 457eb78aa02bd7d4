"""The worked example of a method's page: two rows of four numbers and their branches, merged by the engine itself."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from branchmerge.merge import engine
from branchmerge.merge.recipe import fused

if TYPE_CHECKING:
    from branchmerge.merge.specs import Method

BASE = (0.10, -0.20, 0.30, 0.00, 0.05, 0.25, -0.15, 0.40)
BRANCHES = {
    "a": (0.12, -0.20, 0.20, 0.04, 0.05, 0.28, -0.15, 0.48),
    "b": (0.07, -0.14, 0.25, 0.01, 0.07, 0.25, -0.19, 0.45),
}
SHAPE = [2, 4]
GRAMS = {"a": (9.0, 9.0, 1.0, 1.0), "b": (1.0, 1.0, 9.0, 9.0)}
"""The diagonals of the Gram matrices of what each branch is multiplied with."""


def worked(method: Method) -> dict[str, tuple[float, ...]]:
    """The models that take part, by name, and `result`; eight numbers each, two rows of four."""
    most = method.branches[1]
    branches = dict(list(BRANCHES.items())[:most])
    models = branches if method.base == "none" else {"base": BASE, **branches}
    base = None if method.base == "none" else "base"
    names = [*branches] if method.base in {"none", "required", "optional"} else [*models]
    lent = [(name, [("x", "F32", SHAPE, _bytes(numbers))]) for name, numbers in models.items()]
    parameters = dict(method.example)
    if method.grams:
        parameters["grams"] = [f"inputs of {name}" for name in branches]
        lent += [(f"inputs of {name}", [("x", "F32", [4, 4], _bytes(_diagonal(GRAMS[name])))]) for name in branches]
    recipe = fused(names, method=method.name, base=base, parameters=parameters, known={method.name: method})
    handle, _ = engine.plan_lent(recipe.content, {"threads": 1, "memory": 1 << 30}, lent)
    room = _bytes((0.0,) * len(BASE))
    engine.fuse_lent(handle, [room], None)
    return {**models, "result": struct.unpack(f"<{len(BASE)}f", room)}


def _diagonal(numbers: tuple[float, ...]) -> tuple[float, ...]:
    size = len(numbers)
    return tuple(numbers[row] if row == column else 0.0 for row in range(size) for column in range(size))


def _bytes(numbers: tuple[float, ...]) -> memoryview:
    return memoryview(bytearray(struct.pack(f"<{len(numbers)}f", *numbers)))
