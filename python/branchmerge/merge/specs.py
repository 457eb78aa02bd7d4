"""What a method says of itself: read from the engine, where each method's one file holds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a method."""

    name: str
    type: str
    """`float`, `bool`, `choice`, `float_or_choice` or `optional_float`."""
    default: float | bool | str | None
    help: str
    per: Literal["model", "global"]
    """Whether each branch may have its own value."""
    required: bool = False
    range: tuple[float | None, float | None] | None = None
    """The least and the greatest value; `None` where there is no bound."""
    choices: tuple[str, ...] = ()

    @classmethod
    def from_core(cls, said: Mapping[str, Any]) -> Parameter:
        """Read one from the engine's JSON."""
        span = said.get("range")
        return cls(
            name=said["name"],
            type=said["type"],
            default=said.get("default"),
            help=said["help"],
            per=said["per"],
            required=bool(said.get("required")),
            range=None if span is None else (span[0], span[1]),
            choices=tuple(said.get("choices") or ()),
        )


@dataclass(frozen=True, slots=True)
class Method:
    """A merge method: its words, what it takes, and its parameters by name."""

    name: str
    aliases: tuple[str, ...]
    sentence: str
    paper: str
    formula: str
    space: str
    grain: str
    branches: tuple[int, int | None]
    """The fewest and the most branches; `None` where there is no most."""
    base: Literal["required", "optional", "none", "first"]
    """`first`: of the models listed, the first is the base unless another is named."""
    folds: bool
    """Whether more branches than it takes are fused from the right, one by one."""
    bits: str
    """`everywhere`: the same bits on every machine; `machine`: on every one with such a processor."""
    grams: bool
    """Whether each branch comes with a file of `branchmerge grams`."""
    differences: tuple[str, ...]
    """Where it differs from mergekit's method of the same name."""
    parameters: dict[str, Parameter]
    detail: str
    """A second sentence, after what it does."""
    when: str
    """When to use it."""
    avoid: str
    """When not."""
    example: dict[str, Any]
    """The parameters of the worked example on its page."""
    cost: dict[str, int]
    """With usual parameters, two branches, a matrix of 4096 by 4096 and one worker: `passes`, how often the branches
    are read, and `memory`, the bytes that the method takes besides what is read."""

    @classmethod
    def from_core(cls, said: Mapping[str, Any]) -> Method:
        """Read one from the engine's JSON."""
        parameters = [Parameter.from_core(one) for one in said["parameters"]]
        return cls(
            name=said["name"],
            aliases=tuple(said.get("aliases") or ()),
            sentence=said["sentence"],
            paper=said.get("paper") or "",
            formula=said.get("formula") or "",
            space=said.get("space") or "",
            grain=said.get("grain") or "",
            branches=(said["branches"][0], said["branches"][1]),
            base=said["base"],
            folds=bool(said.get("folds")),
            bits=said.get("bits") or "everywhere",
            grams=bool(said.get("grams")),
            differences=tuple(said.get("differences") or ()),
            parameters={parameter.name: parameter for parameter in parameters},
            detail=said.get("detail") or "",
            when=said.get("when") or "",
            avoid=said.get("avoid") or "",
            example=dict(said.get("example") or {}),
            cost=dict(said.get("cost") or {}),
        )


def named(known: Mapping[str, Method], word: str) -> Method | None:
    """The method of that name or alias."""
    return next((method for method in known.values() if word in {method.name, *method.aliases}), None)
