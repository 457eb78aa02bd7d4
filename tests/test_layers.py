"""Who may lean on whom: `use` and `import` lines of both languages against the table of docs/design.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RUST = ["error", "parallel", "read", "fit", "methods", "plan", "write", "execute"]
PYTHON = ["errors", "hub", "merge", "branch", "stress", "callbacks", "report", "chain", "cli"]
APART = {"merge": {"branch", "stress"}, "branch": {"merge", "stress"}, "stress": {"merge", "branch"}}
# A method sees the prelude of `fit`, and nothing of files and threads.
NARROW = {"methods": {"fit", "methods"}}


def wing(path: Path, root: Path) -> str:
    return path.relative_to(root).parts[0].removesuffix(".rs").removesuffix(".py")


def leans_on(path: Path) -> set[str]:
    text = path.read_text()
    if path.suffix == ".rs":
        return set(re.findall(r"\bcrate::(?:\{\s*)?(\w+)", text.split("#[cfg(test)]")[0]))
    return set(re.findall(r"(?:from|import) branchmerge\.(\w+)", text))


def test_wings_use_only_those_below() -> None:
    wrong = []
    for order, root, ending in ((RUST, ROOT / "rust/core/src", "*.rs"), (PYTHON, ROOT / "python/branchmerge", "*.py")):
        for path in sorted(root.rglob(ending)):
            here = wing(path, root)
            if here not in order:
                continue
            allowed = NARROW.get(here, set(order[: order.index(here) + 1])) - APART.get(here, set())
            wrong += [
                f"{path.relative_to(ROOT)} uses {used}" for used in leans_on(path) & set(order) if used not in allowed
            ]
    assert not wrong


def test_one_file_meets_the_engine() -> None:
    users = [
        path.name
        for path in (ROOT / "python").rglob("*.py")
        if re.search(r"^from branchmerge import _core", path.read_text(), re.MULTILINE)
    ]
    assert users == ["engine.py"]


def test_two_files_meet_the_hub() -> None:
    users = [path.name for path in (ROOT / "python").rglob("*.py") if "import huggingface_hub" in path.read_text()]
    users += [path.name for path in (ROOT / "python").rglob("*.py") if "from huggingface_hub" in path.read_text()]
    assert sorted(users) == ["client.py", "failures.py"]


@pytest.mark.parametrize("folder", ["rust/core/src", "python/branchmerge"])
def test_nobody_below_prints(folder: str) -> None:
    says = re.compile(r"\be?print(?:ln)?!|^\s*print\(", re.MULTILINE)
    loud = [
        path for path in (ROOT / folder).rglob("*.*") if path.suffix in {".rs", ".py"} and says.search(path.read_text())
    ]
    assert not loud
