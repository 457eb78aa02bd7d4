"""The README's blocks are run as they stand, in a directory that has seen `branchmerge demo`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import program

README = Path(__file__).parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


def test_readme_blocks_run(tmp_path: Path) -> None:
    assert program.run("demo", cwd=tmp_path).returncode == 0
    assert len(blocks("sh")) == 2
    for block in blocks("sh"):
        said = program.shell(f"set -e\n{block}", cwd=tmp_path)
        assert said.returncode == 0, said.stderr
    for block in blocks("python"):
        said = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert said.returncode == 0, said.stderr


def test_set_up_is_two_commands() -> None:
    assert "make demo\nmake test\n" in README.read_text()
