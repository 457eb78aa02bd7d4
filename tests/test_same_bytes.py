"""The same bytes whatever the threads, the memory, the way of reading and the shards of inputs; `verify` sees each."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import branchmerge
import checkpoints
import crashes
import program
import pytest

SHAPES = checkpoints.SHAPES | {"model.layers.2.mlp.up_proj.weight": (1040, 1031), "model.layers.3.norm.weight": (1031,)}
"""One tensor is large enough to be shared among all workers, with an odd end."""
SHARDING = {"one file": 1, "three shards": 3, "three shards, unsorted": 3}
PARAMETERS: dict[str, dict[str, Any]] = {
    "linear": {"weight": [0.7, 0.3]},
    "slerp": {"t": 0.4},
    "task_arithmetic": {"weight": [0.7, 0.3]},
    "ties": {"weight": [0.7, 0.3], "density": 0.5},
    "dare_linear": {"weight": [0.7, 0.3], "density": 0.5},
    "dare_ties": {"weight": [0.7, 0.3], "density": 0.5},
    "della_linear": {"weight": [0.7, 0.3], "density": 0.5},
    "della": {"weight": [0.7, 0.3], "density": 0.5},
    "breadcrumbs": {"weight": [0.7, 0.3], "density": 0.5},
    "breadcrumbs_ties": {"weight": [0.7, 0.3], "density": 0.5},
    "sce": {"select_topk": 0.5},
    "nuslerp": {"weight": [0.7, 0.3], "angle": "row"},
    "multislerp": {"weight": [0.7, 0.3]},
    "cabs": {"weight": [0.7, 0.3]},
    "nearswap": {"t": 0.001},
}
METHODS = sorted(name for name, method in branchmerge.methods().items() if method.bits == "everywhere")
"""The others have a file of their own."""


@pytest.fixture(scope="session")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same checkpoints `base`, `a` and `b`, sharded in several ways."""
    made = {}
    for number, (name, shards) in enumerate(SHARDING.items()):
        made[name] = tmp_path_factory.mktemp(f"sharded{number}")
        for seed, checkpoint in enumerate(("base", "a", "b"), 1):
            tensors = checkpoints.weights(seed, of=1, shapes=SHAPES)
            if "unsorted" in name:
                tensors = dict(reversed(tensors.items()))
            checkpoints.write(made[name] / checkpoint, tensors, shards=shards)
    return made


def fused(room: Path, method: str, out: Path, **options: Any) -> dict[str, str]:
    """Fuse by a method into `out`; the contents."""
    spec = branchmerge.methods()[method]
    alone = spec.branches[1] == 1 and spec.base != "first"
    branches = ["a"] if alone else ["a", "b"]
    base = room / "base" if spec.base == "required" else None
    parameters = PARAMETERS.get(method, {})
    branchmerge.fuse(*(room / name for name in branches), method=method, base=base, out=out, **parameters, **options)
    return crashes.contents(out)


def ways(least: int) -> Iterator[dict[str, Any]]:
    """All ways to run."""
    for threads in (1, 2, 7):
        for memory in (least, "8GiB"):
            for io in ("map", "read"):
                yield {"threads": threads, "memory": memory, "io": io}


def least_memory(room: Path, method: str, out: Path) -> int:
    """The smallest bound under which the plan goes."""
    with pytest.raises(branchmerge.RecipeError) as caught:
        fused(room, method, out, memory="1KiB", io="read")
    digits = [word for word in str(caught.value).replace(",", "").split() if word.isdigit()]
    return max(map(int, digits))


@pytest.mark.parametrize("method", METHODS)
def test_the_same_bytes(method: str, sharded: dict[str, Path], tmp_path: Path) -> None:
    least = least_memory(sharded["one file"], method, tmp_path / "never")
    seen: dict[str, dict[str, str]] = {}
    for name, room in sharded.items():
        for number, way in enumerate(ways(least)):
            out = tmp_path / f"{number}"
            found = fused(room, method, out, **way)
            assert found == seen.setdefault(name, found), f"{name}, {way}"
            shutil.rmtree(out)
    first = seen["one file"]
    for name, other in seen.items():
        assert other == first, name


@pytest.fixture
def result(models: Path) -> Path:
    """A result with several shards, a config, a card and a file in a folder."""
    (models / "a" / "additional_chat_templates").mkdir()
    (models / "a" / "additional_chat_templates" / "tool.jinja").write_text("{{ messages }}")
    branchmerge.fuse(models / "a", models / "b", out=models / "out", shard_size=4000)
    moved = models / "elsewhere" / "moved"
    shutil.copytree(models / "out", moved)
    shutil.rmtree(models / "out")
    for name in "ab":
        shutil.rmtree(models / name)
    assert branchmerge.verify(moved).problems == ()
    return moved


def check_found(result: Path, name: str) -> None:
    """`verify` finds something wrong, and says with which file."""
    problems = branchmerge.verify(result).problems
    assert problems, f"nothing was found in {name}"
    assert any(str(result / name) in str(problem) for problem in problems), [str(problem) for problem in problems]


def test_verify_finds_every_flipped_byte(result: Path) -> None:
    dice = random.Random(1)
    names = sorted(crashes.contents(result))
    assert len(names) > 6
    for name in names:
        path = result / name
        data = path.read_bytes()
        ends = {0, 7, 8, len(data) - 1}
        for at in sorted({*ends, *dice.sample(range(len(data)), min(60, len(data)))} & set(range(len(data)))):
            damaged = bytearray(data)
            damaged[at] ^= 1 << dice.randrange(8)
            path.write_bytes(damaged)
            check_found(result, name)
        path.write_bytes(data)
    assert branchmerge.verify(result).problems == ()


def test_verify_finds_files_missing_added_cut_and_changed_in_kind(result: Path) -> None:
    for name in sorted(crashes.contents(result)):
        path = result / name
        data = path.read_bytes()
        for change in ("missing", "cut", "longer", "a link", "a directory"):
            path.unlink()
            if change == "cut":
                path.write_bytes(data[:-1])
            elif change == "longer":
                path.write_bytes(data + b"\n")
            elif change == "a link":
                (result.parent / "target").write_bytes(data)
                path.symlink_to(result.parent / "target")
            elif change == "a directory":
                path.mkdir()
            check_found(result, name)
            if change == "a directory":
                path.rmdir()
            path.unlink(missing_ok=True)
            path.write_bytes(data)
    for added in ("more", ".hidden", "model-00099-of-00099.safetensors", "additional_chat_templates/more"):
        (result / added).write_text("x")
        check_found(result, added)
        (result / added).unlink()
    (result / "empty").mkdir()
    check_found(result, "empty")
    (result / "empty").rmdir()
    assert branchmerge.verify(result).problems == ()


def test_verify_by_the_program_names_each(result: Path) -> None:
    assert program.run("verify", str(result)).returncode == 0
    (result / "README.md").unlink()
    (result / "more").write_text("x")
    said = program.run("verify", str(result))
    assert said.returncode == 1
    for name in ("README.md", "more"):
        assert f"{result / name}`" in said.stderr
