"""The methods' documents are made from their specs, and every method has all that a page needs."""

from __future__ import annotations

from pathlib import Path

import branchmerge as bm
import pytest
from branchmerge.cli import pages
from branchmerge.merge.example import BASE, worked

DOCUMENTS = Path(__file__).parents[1] / "docs"
METHODS = bm.methods()
MERGEKIT = {
    "linear", "slerp", "nuslerp", "multislerp", "karcher", "task_arithmetic", "ties", "dare_linear", "dare_ties",
    "della_linear", "della", "breadcrumbs", "breadcrumbs_ties", "sce", "model_stock", "nearswap", "arcee_fusion", "ram",
    "ramplus_tl", "passthrough",
}  # fmt: skip


def test_the_document_is_what_the_specs_say() -> None:
    # `make docs` writes it anew.
    assert (DOCUMENTS / "methods.md").read_text() == pages.all_markdown(METHODS) + "\n"


def test_mergekit_s_methods_are_all_there() -> None:
    names = {name for method in METHODS.values() for name in (method.name, *method.aliases)}
    assert names >= MERGEKIT


def test_choosing_names_only_methods_that_exist() -> None:
    table = (DOCUMENTS / "choosing.md").read_text().split("## What was seen")[0]
    words = set(table.split("`")[1::2])
    assert words <= METHODS.keys(), words - METHODS.keys()


@pytest.mark.parametrize("name", METHODS)
def test_a_page_has_everything(name: str) -> None:
    method = METHODS[name]
    page = pages.plain(method)
    for text in ("use it when", "do not when", "cost", "Example"):
        assert text in page
    assert all(len(line) <= 110 for line in page.splitlines())
    models = worked(method)
    assert len(models["result"]) == len(BASE)
    if method.base != "none":
        # The example shows something: neither the base nor a branch comes out.
        assert all(models["result"] != pytest.approx(numbers) for key, numbers in models.items() if key != "result")
