"""Whole merges against their peer and against a copy. Each method runs with each program in turn, A B C A B C, every
run a process of its own; its output is deleted and the disk synced before the next. Prints medians as a Markdown
table.

    python bench/merges.py work/half --branchmerge .venv/bin/branchmerge --mergekit peer/bin/mergekit-yaml --repeat 5
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from statistics import median
from typing import NamedTuple

from measure import Measured, measure
from recipes import BEST, METHODS, MIB, USUAL

MANY = 10_000  # tensors; from here on the time of one tensor is told as well
ROOFLINE, COPY, OURS = "roofline", "copy", "branchmerge"
HEAD = ["method", "program", "wall s (range)", "CPU s", "private MiB", "told MiB"]
HEAD += [f"wall / {ROOFLINE}", f"wall / {COPY}", f"wall / {OURS}", "µs a tensor"]
# The peer's best flags, found by trying: small shards written in the background save it a tenth.
FASTEST = ["--async-write", "--out-shard-size", "100M", "--no-copy-tokenizer"]


class Program(NamedTuple):
    """`RECIPE`, `OUT` and `INPUTS` in the command stand for what they say."""

    command: list[str]
    dtypes: dict[str, str]
    environment: dict[str, str] | None = None


class Run(NamedTuple):
    wall: float
    cpu: float
    private: int
    told: int | None  # what the program itself says of its private peak
    written: int


Runs = dict[str, dict[str, list[Run]]]  # by method, then by program


def programs(asked: argparse.Namespace) -> dict[str, Program]:
    threads = str(asked.threads)
    roofline = [sys.executable, "-E", "-S", str(Path(__file__).with_name("roofline.py")), "--threads", threads]
    found = {ROOFLINE: Program([*roofline, "OUT", "INPUTS"], {})}
    found[COPY] = Program([*roofline, "--plain", "OUT", "INPUTS"], {})
    if asked.branchmerge:
        ours = [asked.branchmerge, "merge", "RECIPE", "OUT", "--threads", threads, "--json", *asked.flag]
        found[OURS] = Program(ours, BEST)
    if asked.mergekit:
        peer = [asked.mergekit, "RECIPE", "OUT", "--quiet", "-j", threads, "--random-seed", "0", *FASTEST]
        offline = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": threads}
        found["mergekit"] = Program(peer, BEST, offline)
        found["mergekit, bf16"] = Program(peer, USUAL, offline)
    return {name: found[name] for name in (asked.programs.split(";") if asked.programs else found)}


def run(program: Program, name: str, asked: argparse.Namespace) -> Run:
    """One run from a synced disk; everything it wrote is gone afterwards."""
    recipe, out, method = asked.scratch / "recipe.yml", asked.scratch / "out", METHODS[name]
    recipe.write_text(json.dumps(method.recipe(name, asked.checkpoints, program.dtypes), indent=2))  # JSON is YAML
    inputs = [str(asked.checkpoints / model / "model.safetensors") for model in method.inputs]
    filled = {"RECIPE": [str(recipe)], "OUT": [str(out)], "INPUTS": inputs}
    clear(out)
    if asked.cold:
        drop(inputs)
    measured = measure([part for word in program.command for part in filled.get(word, [word])], program.environment)
    written = sum(path.stat().st_size for path in (out.rglob("*") if out.is_dir() else [out]))
    if written < Path(inputs[0]).stat().st_size:
        raise SystemExit(f"error: {name}: {program.command[0]} wrote only {written} bytes")
    clear(out)
    return Run(measured.wall, measured.cpu, measured.private, told(measured), written)


def clear(out: Path) -> None:
    shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)
    os.sync()


def drop(paths: list[str]) -> None:
    """Asks the kernel to forget the pages of these files."""
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def told(measured: Measured) -> int | None:
    try:
        return int(json.loads(measured.stdout)["private_peak"])
    except (ValueError, KeyError, TypeError):
        return None


def table(runs: Runs, tensors: int) -> list[str]:
    columns = len(HEAD) - (tensors < MANY)
    rows = [HEAD, ["---"] * len(HEAD)]
    for name, by_program in runs.items():
        walls = {program: median(run.wall for run in kept) for program, kept in by_program.items()}
        for program, kept in by_program.items():
            row = [name, program, *figures(kept, program, name), *ratios(walls, program, name)]
            rows.append([*row, f"{walls[program] / tensors * 1e6:.1f}"])
    return ["| " + " | ".join(row[:columns]) + " |" for row in rows]


def figures(kept: list[Run], program: str, name: str) -> list[str]:
    walls = [run.wall for run in kept]
    wall = f"{median(walls):.2f} ({min(walls):.2f}-{max(walls):.2f})"
    private, own = max(run.private for run in kept), max(run.told or 0 for run in kept)
    cpu = median(run.cpu for run in kept)
    bound = f" (≤ {METHODS[name].private // MIB})" if program == OURS else ""
    return [wall, f"{cpu:.2f}", f"{private / MIB:.0f}{bound}", f"{own / MIB:.0f}" if own else ""]


def ratios(walls: dict[str, float], program: str, name: str) -> list[str]:
    """Beside the figure to reach, where there is one."""
    cells = [f"{walls[program] / walls[other]:.2f}" if other in walls else "" for other in (ROOFLINE, COPY, OURS)]
    if program == OURS:
        cells[0] += f" (≤ {METHODS[name].copies})"
    if program.startswith("mergekit") and cells[2]:
        cells[2] += f" (≥ {METHODS[name].faster:g})"
    return cells


def count_tensors(path: Path) -> int:
    with path.open("rb") as file:
        return len(json.loads(file.read(int.from_bytes(file.read(8), "little"))).keys() - {"__metadata__"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, help="what make_checkpoints.py made")
    parser.add_argument("--branchmerge", help="the program, in whichever environment")
    parser.add_argument("--mergekit", help="mergekit-yaml of the peer's environment")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--programs", help="only these, by their names in the table, a semicolon between")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--flag", action="append", default=[], help="one more for branchmerge: --flag=--io=read")
    parser.add_argument("--cold", action="store_true", help="inputs out of the page cache before each run")
    parser.add_argument("--scratch", type=Path, help="for outputs; beside the checkpoints by default")
    parser.add_argument("--json", type=Path, help="a file for all runs")
    asked = parser.parse_args()
    asked.checkpoints = asked.checkpoints.resolve()
    asked.scratch = asked.scratch or asked.checkpoints / "scratch"
    asked.scratch.mkdir(exist_ok=True)
    if not asked.cold:
        for path in asked.checkpoints.glob("*/model.safetensors"):
            measure(["cksum", str(path)])

    runs: Runs = {}
    for name in asked.methods.split(","):
        for turn in range(asked.repeat):
            for label, program in programs(asked).items():
                done = run(program, name, asked)
                runs.setdefault(name, {}).setdefault(label, []).append(done)
                print(f"{name} {turn + 1}: {label} {done.wall:.2f} s", file=sys.stderr)

    base = asked.checkpoints / "base" / "model.safetensors"
    size, tensors, cache = base.stat().st_size, count_tensors(base), "cold" if asked.cold else "hot"
    print(f"{size / 1e6:.0f} MB and {tensors} tensors a checkpoint, {cache} cache, {asked.threads} threads, ", end="")
    print(f"medians of {asked.repeat}\n\n" + "\n".join(table(runs, tensors)))
    if asked.json:
        plain = {
            name: {label: [run._asdict() for run in kept] for label, kept in of.items()} for name, of in runs.items()
        }
        asked.json.write_text(json.dumps({"bytes": size, "tensors": tensors, "cache": cache, "runs": plain}, indent=1))


if __name__ == "__main__":
    main()
