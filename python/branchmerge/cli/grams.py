"""`branchmerge grams`: a model runs over texts, and what its layers are multiplied with is written down."""

from __future__ import annotations

from typing import Any

import rich_click as click

from branchmerge.cli import terminal


@click.command("grams", short_help="Collect what a model's layers are multiplied with, for regmean and lot.")
@click.argument("checkpoint", metavar="CHECKPOINT")
@click.option("--texts", required=True, metavar="FILE", help="JSON lines with `text` or `messages`, or plain lines.")
@click.option("-o", "--out", required=True, metavar="FILE", help="The safetensors file to write.")
@click.option("--limit", type=click.IntRange(1), default=256, metavar="N", help="Rows that are taken (256).")
@click.option("--length", type=click.IntRange(1), default=1024, metavar="N", help="Tokens of each, at most (1024).")
@click.option("--widest", type=click.IntRange(1), default=16384, metavar="N", help="Leave wider layers out (16384).")
@click.option("--memory", default="8GiB", metavar="SIZE", help="Matrices at once; else the model runs again (8GiB).")
@click.option("--device", default="cpu", metavar="NAME", help="Where the model runs: cpu, cuda, cuda:1 … (cpu).")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON on standard output, nothing else there.")
@click.option("--quiet", is_flag=True, help="Errors only.")
@click.option("--verbose", is_flag=True, help="Tracebacks of errors.")
def command(checkpoint: str, texts: str, out: str, *, as_json: bool, quiet: bool, verbose: bool, **how: Any) -> int:
    """Run CHECKPOINT over the texts of its domain, and write the Gram matrices of its layers' inputs to a file.

    The file goes beside the model in a recipe (`grams: FILE`), or with `-p grams=a.safetensors,b.safetensors`, for the
    methods regmean and lot. It takes 4 bytes for each pair of inputs a layer.
    """
    from branchmerge.merge.grams import grams
    from branchmerge.merge.results import as_data

    del verbose
    with terminal.progress(quiet=quiet, counted="texts") as report:
        found = grams(checkpoint, texts, out, progress=report, **how)
    if as_json:
        terminal.say_json(as_data(found))
        return 0
    if quiet:
        return 0
    if found.cut:
        terminal.warn(f"{found.cut} of {found.texts} texts are longer than {how['length']} tokens: they were cut")
    if found.left_out:
        terminal.warn(f"{len(found.left_out)} layers have more than {how['widest']} inputs and were left out")
    rows = [["weights", f"{found.tensors:,}"], ["texts", f"{found.texts:,}"], ["tokens", f"{found.tokens:,}"]]
    rows += [["written", terminal.size(found.bytes)], ["time", f"{found.seconds:.2f} s"]]
    terminal.say(f"{found.out}: done")
    terminal.say(terminal.table(rows))
    return 0
