"""What is merged: one recipe a method, in the language that both programs read, and the figures it has to reach."""

from pathlib import Path
from typing import Any, NamedTuple

MIB = 1 << 20
BASE = "base"


class Method(NamedTuple):
    """`inputs` are the names of checkpoints; where `base` is the first, it is the recipe's base model."""

    inputs: tuple[str, ...]
    parameters: dict[str, Any]  # of the whole recipe
    per_model: dict[str, list[float]]
    copies: float  # wall time over the roofline's, at most
    faster: float  # the peer's wall time over ours, at least
    private: int  # bytes, at most

    def recipe(self, name: str, checkpoints: Path, dtypes: dict[str, str]) -> dict[str, Any]:
        recipe: dict[str, Any] = {"merge_method": name, "models": [], **dtypes}
        for index, model in enumerate(model for model in self.inputs if model != BASE):
            parameters = {key: values[index] for key, values in self.per_model.items()}
            recipe["models"].append({"model": str(checkpoints / model), "parameters": parameters})
        if BASE in self.inputs:
            recipe["base_model"] = str(checkpoints / BASE)
        return recipe | ({"parameters": self.parameters} if self.parameters else {})


WEIGHT = {"weight": [0.6, 0.4]}
SPARSE = WEIGHT | {"density": [0.5, 0.5]}
ALL = (BASE, "one", "two")

METHODS = {
    "linear": Method(ALL[1:], {}, WEIGHT, 1.3, 7, 128 * MIB),
    "task_arithmetic": Method(ALL, {}, WEIGHT, 1.3, 7, 128 * MIB),
    "passthrough": Method(ALL[1:2], {}, {}, 1.3, 7, 128 * MIB),
    "slerp": Method(ALL[:2], {"t": 0.4}, {}, 1.8, 7, 256 * MIB),
    "arcee_fusion": Method(ALL[:2], {}, {}, 2.5, 10, 256 * MIB),
    "ties": Method(ALL, {}, SPARSE, 2.5, 20, 256 * MIB),
    "dare_ties": Method(ALL, {}, SPARSE, 2.5, 10, 256 * MIB),
    "dare_linear": Method(ALL, {}, SPARSE, 4, 7, 256 * MIB),
    "nuslerp": Method(ALL[1:], {}, WEIGHT, 4, 7, 256 * MIB),
    "multislerp": Method(ALL[1:], {}, WEIGHT, 4, 7, 256 * MIB),
    "karcher": Method(ALL[1:], {}, {}, 4, 20, 256 * MIB),
    "della_linear": Method(ALL, {}, SPARSE, 4, 20, 256 * MIB),
    "della": Method(ALL, {}, SPARSE, 4, 20, 256 * MIB),
    "breadcrumbs": Method(ALL, {}, SPARSE, 4, 20, 256 * MIB),
    "breadcrumbs_ties": Method(ALL, {}, SPARSE, 4, 20, 256 * MIB),
    "sce": Method(ALL, {"select_topk": 0.5}, {}, 4, 20, 256 * MIB),
    "model_stock": Method(ALL, {}, {}, 4, 7, 256 * MIB),
    "nearswap": Method(ALL[:2], {"t": 0.001}, {}, 4, 7, 128 * MIB),
    "ram": Method(ALL, {}, {}, 4, 7, 128 * MIB),
    "ramplus_tl": Method(ALL, {}, {}, 4, 7, 256 * MIB),
}

# The peer's numbers are best in float32; most users write bfloat16, where its Arcee Fusion writes float32 files.
BEST = {"dtype": "float32", "out_dtype": "bfloat16"}
USUAL = {"dtype": "bfloat16"}
