"""What the engine gives to Python: four functions that take and return JSON, and an opaque plan."""

from collections.abc import Callable
from typing import final

__all__ = ["Plan", "__version__", "execute", "methods", "plan", "verify"]

__version__: str

@final
class Plan:
    """Everything decided about one merge, or every problem of it."""

    def json(self) -> str: ...

def plan(recipe: str, options: str) -> Plan: ...
def execute(plan: Plan, sidecars: dict[str, bytes], progress: Callable[[str], object] | None) -> str: ...
def verify(directory: str, threads: int | None, progress: Callable[[str], object] | None) -> str: ...
def methods() -> str: ...
