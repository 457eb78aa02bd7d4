"""Checkpoints that most tests start from, and how often the crash tests crash."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import checkpoints
import crashes
import pytest
from crashes import Case

LARGE = {f"model.layers.{layer}.mlp.down_proj.weight": (1025, 1024) for layer in range(8)}
CRASHES_A_TEST = 10


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--crashes", type=int, default=60, help="how many runs are killed at random moments (60)")


def pytest_sessionstart() -> None:
    """Let the tests' programs be stopped by signals, though who started the tests (`nohup`, `&`) has them ignored."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            # What is handled here has its default in a program that is started, what is ignored stays ignored.
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else lambda *_: None)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "crash_seeds" in metafunc.fixturenames:
        seeds = range(metafunc.config.getoption("--crashes"))
        parts = [seeds[start : start + CRASHES_A_TEST] for start in seeds[::CRASHES_A_TEST]]
        metafunc.parametrize("crash_seeds", parts, ids=[f"{part[0]}-{part[-1]}" for part in parts])


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A directory with `base` and three branches of it, `a`, `b` and `c`."""
    checkpoints.write(tmp_path / "base", checkpoints.weights(1))
    for seed, name in enumerate("abc", 2):
        checkpoints.write(tmp_path / name, checkpoints.weights(seed, of=1))
    return tmp_path


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A fusion of eight tensors of some megabytes, taken one by one, and six small ones, into three weight files."""
    directory = tmp_path_factory.mktemp("case").resolve()
    shapes = LARGE | checkpoints.SHAPES
    for seed, name in enumerate("ab", 2):
        checkpoints.write(directory / name, checkpoints.weights(seed, of=1, shapes=shapes))
    arguments = ["fuse", str(directory / "a"), str(directory / "b"), "--json", "-o", crashes.OUT]
    arguments += ["--shard-size", "8MB"]
    running = crashes.Running(directory, arguments)
    begun = running.wait_for_partial()
    ended = running.end()
    work = time.perf_counter() - begun
    assert ended.result()["status"] == "done"
    return Case(arguments, crashes.contents(directory / crashes.OUT), ended.written, work)
