"""What ships with the package stands under licences that may: read from installed metadata."""

from __future__ import annotations

import re
from importlib.metadata import distribution

ALLOWED = re.compile(r"MIT|Apache|BSD|Zlib|Unicode-3\.0|PSF|Python Software Foundation|Unlicense|CC0")


def runtime(name: str, seen: set[str]) -> set[str]:
    """`name` and all it needs at run time."""
    seen.add(name)
    for requirement in distribution(name).requires or []:
        needed = re.match(r"[A-Za-z0-9._-]+", requirement)
        if needed and ";" not in requirement and needed[0].lower() not in seen:
            runtime(needed[0].lower(), seen)
    return seen


def licence(name: str) -> str:
    found = distribution(name).metadata
    classifiers = [one for one in found.get_all("Classifier") or [] if one.startswith("License")]
    said = [*(found.get_all("License-Expression") or []), *(found.get_all("License") or [])]
    return " ".join([*classifiers, *(one[:60] for one in said)])


def test_licences_of_the_core() -> None:
    names = runtime("branchmerge", set())
    assert {"click", "rich", "rich-click", "pyyaml"} <= names
    wrong = {name: licence(name) for name in names if not ALLOWED.search(licence(name))}
    assert not wrong


def test_the_core_is_light() -> None:
    assert not runtime("branchmerge", set()) & {"numpy", "torch", "scipy", "transformers"}
