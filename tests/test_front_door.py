"""The package's one front door: what it gives, and that all of it is documented."""

from __future__ import annotations

import inspect
from importlib.metadata import version

import branchmerge as bm

GIVEN = {
    "BranchmergeError", "CheckpointError", "Method", "OutputExists", "Parameter", "Plan", "Problem", "Progress",
    "Pushed", "RecipeError", "Result", "Verification", "__version__", "fuse", "fuse_tensors", "gradient", "merge",
    "methods", "plan", "push", "verify",
}  # fmt: skip


def test_all_is_what_is_promised() -> None:
    assert set(bm.__all__) == GIVEN
    assert bm.__version__ == version("branchmerge")


def test_everything_is_documented() -> None:
    for name in GIVEN - {"__version__"}:
        assert inspect.getdoc(getattr(bm, name)), name


def test_errors_form_the_promised_tree() -> None:
    assert issubclass(bm.RecipeError, bm.BranchmergeError)
    assert issubclass(bm.RecipeError, ValueError)
    assert issubclass(bm.CheckpointError, bm.BranchmergeError)
    assert issubclass(bm.OutputExists, bm.BranchmergeError)
    error = bm.BranchmergeError("x", hint="h", tensor="t", branch="b", path="p")
    assert (error.hint, error.tensor, error.branch, error.path) == ("h", "t", "b", "p")
