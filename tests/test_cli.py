"""The program as promised: exit statuses, the form of errors, what goes to which stream."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import checkpoints
import program
import pytest

COMMANDS = ["fuse", "merge", "plan", "methods", "verify", "push", "demo"]


def errors(text: str) -> list[str]:
    return [line.removeprefix("error: ") for line in text.splitlines() if line.startswith("error: ")]


def test_help_of_every_command() -> None:
    listing = program.run("--help").stdout
    for command in COMMANDS:
        assert command in listing
        said = program.run(command, "--help")
        assert (said.returncode, said.stderr) == (0, "")
        assert "Usage" in said.stdout


def test_version() -> None:
    told = program.run("--version").stdout
    assert re.fullmatch(r"branchmerge \d+\.\d+\.\d+\n", told)
    as_module = [sys.executable, "-m", "branchmerge", "--version"]
    assert subprocess.run(as_module, capture_output=True, text=True, check=True).stdout == told


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["fues"], "no such command `fues`", "did you mean `fuse`?"),
        (["fuse", "--densty", "a", "b"], "no such option `--densty`", "did you mean"),
        (["fuse"], "missing argument", "--help"),
        (["fuse", "a", "b", "--threads", "0"], "'--threads'", "--help"),
        (["fuse", "a", "b", "--threads", "many"], "'--threads'", "--help"),
        (["fuse", "a", "b", "--io", "magic"], "'--io'", "--help"),
        (["fuse", "a", "b", "--memory", "5B"], "`memory` is `5B`", "8GiB"),
        (["fuse", "a", "b", "--shard-size", "-1"], "`shard_size` is `-1`", "8GiB"),
        (["fuse", "a", "b", "-p", "t"], "`-p t` sets nothing", "weight=0.5"),
        (["fuse", "a", "b", "-p", "t=1", "-p", "t=2"], "`-p t` is given twice", "one value a branch"),
        (["fuse", "a", "b", "-p", "t=yes"], "a bare `yes`", "true"),
        (["fuse", "a", "b", "-p", "threshold=1,2"], "`threshold` takes one value", ""),
        (
            ["fuse", "a", "b", "--base", "c", "--method", "ties", "-p", "weight=1,2,3"],
            "3 values, expected 2",
            "one a branch",
        ),
        (["fuse", "a", "b", "--method", "ties"], "needs their base", "--base"),
        (["fuse", "a", "b", "--allow", "missing"], "`missing` allows nothing", "missing=base"),
        (["methods", "arcy"], "unknown method `arcy`", "arcee"),
        (["merge", "nothing.yml", "out"], "nothing.yml: No such file or directory", ""),
        (["plan", "/dev/null"], "not a regular file", "YAML"),
    ],
)
def test_mistakes_in_the_command(arguments: list[str], message: str, hint: str, tmp_path: Path) -> None:
    said = program.run(*arguments, cwd=tmp_path)
    assert said.returncode == 2
    assert said.stdout == ""
    assert message in errors(said.stderr)[0]
    assert hint in said.stderr
    assert not list(tmp_path.iterdir())
    for line in said.stderr.splitlines():
        assert line.startswith(("error: ", "hint: "))


def test_fuse_and_verify(models: Path) -> None:
    said = program.run("fuse", "a", "b", cwd=models)
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.startswith("a-b-arcee: done\n")
    for row in ("tensors", "elements", "share taken", "time", "GB/s", "private peak"):
        assert row in said.stdout
    again = program.run("fuse", "a", "b", cwd=models)
    assert (again.returncode, again.stdout.splitlines()[0]) == (0, "a-b-arcee: up to date")
    assert program.run("verify", "a-b-arcee", cwd=models).returncode == 0


def test_json_and_nothing_else(models: Path) -> None:
    said = program.run("fuse", "a", "b", "--json", "-o", "out", cwd=models)
    result = json.loads(said.stdout)
    assert (result["status"], result["method"], result["inputs"]) == ("done", "arcee", ["a", "b"])
    assert said.stderr == ""
    assert json.loads(program.run("verify", "out", "--json", cwd=models).stdout)["problems"] == []
    plan = json.loads(program.run("fuse", "a", "b", "--dry-run", "--json", "-o", "out2", cwd=models).stdout)
    assert plan["problems"] == []
    assert plan["output"]["tensors"] == len(checkpoints.SHAPES)
    assert not (models / "out2").exists()
    names = [method["name"] for method in json.loads(program.run("methods", "--json").stdout)]
    assert {"arcee", "ties"} <= set(names)
    for name in names:
        assert json.loads(program.run("methods", name, "--json").stdout)["name"] == name


def test_quiet_says_nothing(models: Path) -> None:
    said = program.run("fuse", "a", "b", "--quiet", "-o", "out", cwd=models)
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")


def test_a_target_in_the_way(models: Path) -> None:
    (models / "out").mkdir()
    (models / "out/precious").write_text("x")
    said = program.run("fuse", "a", "b", "-o", "out", cwd=models)
    assert said.returncode == 1
    assert len(errors(said.stderr)) == 1
    assert [path.name for path in (models / "out").iterdir()] == ["precious"]
    assert program.run("fuse", "a", "b", "-o", "out", "--overwrite", cwd=models).returncode == 0
    assert not (models / "out/precious").exists()


def test_verify_names_what_changed(models: Path) -> None:
    assert program.run("fuse", "a", "b", "-o", "out", cwd=models).returncode == 0
    file = models / "out/model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    (models / "out/more").write_text("x")
    said = program.run("verify", "out", cwd=models)
    assert said.returncode == 1
    text = "\n".join(errors(said.stderr))
    assert "more" in text
    assert any(name in text for name in checkpoints.SHAPES)


def test_verbose_shows_the_traceback(tmp_path: Path) -> None:
    plain = program.run("verify", "nothing", cwd=tmp_path)
    assert plain.returncode == 1
    assert "Traceback" not in plain.stderr
    assert "Traceback" in program.run("methods", "arcy", "--verbose", cwd=tmp_path).stderr


def test_hostile_names_are_escaped(tmp_path: Path) -> None:
    said = program.run("fuse", "a\x1b[31m", "b\u202eb", "-o", "out", cwd=tmp_path)
    assert said.returncode == 2
    assert "\x1b" not in said.stderr
    assert "\u202e" not in said.stderr


def test_a_name_that_is_not_utf8(models: Path) -> None:
    name = os.fsdecode(b"out\xff")
    said = program.run("fuse", "a", "b", "-o", name, cwd=models)
    assert said.returncode == 2
    assert "not UTF-8" in said.stderr


def test_many_problems_stay_short(tmp_path: Path) -> None:
    rows = "\n".join(f"  - model: nothing-{number}" for number in range(3000))
    (tmp_path / "r.yml").write_text(f"merge_method: linear\nmodels:\n{rows}\nparameters: {{weight: 1}}\n")
    said = program.run("plan", "r.yml", cwd=tmp_path)
    assert said.returncode == 2
    assert len(said.stderr) <= 20_000
    assert "more" in errors(said.stderr)[-1]


@pytest.mark.parametrize("locale", ["C", "POSIX", "xx_XX.UTF-8"])
def test_any_locale(models: Path, locale: str) -> None:
    (models / "a").rename(models / "ä")
    said = program.run("fuse", "ä", "b", "-o", "öut", cwd=models, LC_ALL=locale, PYTHONIOENCODING="ascii")
    assert said.returncode == 0, said.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(models: Path, closed: str) -> None:
    said = program.shell(f"branchmerge fuse a b -o out {closed}", cwd=models)
    assert said.returncode == 0, said.stderr
    assert program.run("verify", "out", cwd=models).returncode == 0


def test_full_streams(models: Path) -> None:
    said = program.shell("branchmerge fuse a b -o out > /dev/full", cwd=models)
    assert said.returncode == 1
    assert errors(said.stderr) == ["standard output: No space left on device"]
    assert program.shell("branchmerge fuse a b -o out2 2> /dev/full", cwd=models).returncode == 0
    assert program.shell("branchmerge fuse a nothing -o out3 2> /dev/full", cwd=models).returncode == 2


def test_a_reader_that_goes_away(models: Path) -> None:
    said = program.shell("branchmerge methods arcee | true; echo ${PIPESTATUS[0]}", cwd=models)
    assert (said.stdout, said.stderr) == ("0\n", "")
    said = program.shell("branchmerge fuse a b -o out 2>&1 | true; echo ${PIPESTATUS[0]}", cwd=models)
    assert (said.stdout, said.stderr) == ("0\n", "")


def test_a_deleted_working_directory(models: Path) -> None:
    gone = f"mkdir gone && cd gone && rmdir ../gone && branchmerge fuse {models}/a {models}/b"
    assert program.shell(f"{gone} -o {models}/out", cwd=models).returncode == 0
    said = program.shell(gone, cwd=models)
    assert said.returncode in {1, 2}
    assert errors(said.stderr)


def test_plain_text_without_a_terminal(models: Path) -> None:
    for arguments in (["--help"], ["methods", "ties"], ["fuse", "a", "b", "-o", "out"]):
        said = program.run(*arguments, cwd=models)
        assert "\x1b" not in said.stdout + said.stderr


def long_merge(directory: Path) -> list[str]:
    """Arguments of a merge that lasts a second or more."""
    for name in ("base", "a", "b"):
        checkpoints.write_large(directory / name, tensors=48, elements=1 << 22)
    return ["fuse", "a", "b", "--base", "base", "--method", "ties", "-p", "weight=1", "-p", "density=0.5", "-o", "out"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals(tmp_path: Path, number: signal.Signals, status: int) -> None:
    arguments = long_merge(tmp_path)
    started = subprocess.Popen(
        [program.PROGRAM, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "out.partial").exists() and started.poll() is None:
        time.sleep(0.01)
    time.sleep(0.1)
    start = time.perf_counter()
    started.send_signal(number)
    _, told = started.communicate(timeout=60)
    assert time.perf_counter() - start < 0.5 + 0.5  # half a second is promised; the machine may be busy
    assert started.returncode == status
    assert errors(told) == ["interrupted"]
    assert "the same command again resumes what `out.partial` holds" in told
    again = program.run(*arguments, "--json", cwd=tmp_path)
    assert again.returncode == 0
    assert not (tmp_path / "out.partial").exists()


def test_ignored_signals_stay_ignored(tmp_path: Path) -> None:
    said = program.shell("trap '' HUP; branchmerge methods & kill -HUP $!; wait $!; echo $?", cwd=tmp_path)
    assert said.stdout.endswith("\n0\n")


def test_progress_on_a_terminal(tmp_path: Path) -> None:
    arguments = long_merge(tmp_path)
    for color, expected in (("", True), ("1", False)):
        reader, writer = os.openpty()
        environment = {**program.ENVIRONMENT, "TERM": "xterm-256color", **({"NO_COLOR": color} if color else {})}
        with subprocess.Popen(
            [program.PROGRAM, *arguments, "--overwrite"],
            cwd=tmp_path,
            stderr=writer,
            stdout=subprocess.DEVNULL,
            env=environment,
        ) as started:
            os.close(writer)
            shown = b""
            while True:
                try:
                    part = os.read(reader, 65536)
                except OSError:
                    break
                shown += part
                if not part:
                    break
        os.close(reader)
        text = shown.decode()
        assert started.returncode == 0
        assert "merging" in text
        assert "B/s" in text
        assert bool(re.search(r"\x1b\[[0-9;]*3[0-9]", text)) is expected
        assert subprocess.run(["rm", "-r", tmp_path / "out"], check=True).returncode == 0
