"""Checkpoints that most tests start from."""

from __future__ import annotations

from pathlib import Path

import checkpoints
import pytest


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A directory with `base` and three branches of it, `a`, `b` and `c`."""
    checkpoints.write(tmp_path / "base", checkpoints.weights(1))
    for seed, name in enumerate("abc", 2):
        checkpoints.write(tmp_path / name, checkpoints.weights(seed, of=1))
    return tmp_path
