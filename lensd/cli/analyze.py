"""`lensd analyze`: the spectrum of a LoRA and what each mode would give; writes no LoRA."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterator
from typing import Any

import click

from lensd.cli import say
from lensd.config.document import Settings
from lensd.config.folders import printable
from lensd.errors import EXIT_OK, EXIT_SOME_FAILED, FileError
from lensd.report.amounts import size


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="One JSON object a file, with every module.")
@click.option("--plot", "picture", metavar="OUT.svg", help="Draw spectrum and rank of each block.")
@click.option("--force", is_flag=True, help="With --plot: write over an existing picture.")
def analyze(files: tuple[str, ...], as_json: bool, picture: str | None, force: bool) -> int:
    """Show what a LoRA would shrink to; change nothing.

    For each energy: the rank that holds it, over the modules. For each mode: the file's size.
    """
    if picture is not None:
        from lensd.cli import plot

        plot.require(files, picture, force=force)
    from lensd.compute import task  # torch takes a second; only this needs it

    code = EXIT_OK
    for path in files:
        request = {
            "path": os.path.realpath(path),
            "name": os.fsencode(os.path.basename(path)).decode("utf-8", "backslashreplace"),
            "parameters": Settings().parameters(),
            "device": "cpu",
            "details": True,
        }
        try:
            numbers = {"path": printable(path), **task.analyze(request)}
        except FileError as end:
            numbers = {"path": printable(path), "reason": end.reason, "message": str(end)}
            say(printable(f"{end.event.removeprefix('file.')}: {path}: {end}"))
            code = EXIT_SOME_FAILED if end.event == "file.failed" else code
        if picture is not None and "details" in numbers:
            plot.write(numbers, picture, force=force)
        if as_json:
            click.echo(json.dumps(numbers))
        elif "details" in numbers:
            click.echo("\n".join(_lines(numbers)))
    return code


def _lines(numbers: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{numbers['path']}: {size(numbers['bytes_in'])}, {numbers['family']}, "
        f"{numbers['naming']} naming, {numbers['dtype_in']}, {numbers['modules']} modules, "
        f"rank {_spread(numbers['rank_in'])}"
    )
    energies = numbers["details"][0]["ranks"]
    for energy in energies:
        ranks = [d["ranks"][energy] for d in numbers["details"]]
        spread = f"rank {min(ranks)} to {max(ranks)}, median {statistics.median(ranks):g}"
        yield f"  {float(energy):6.1%} of the energy: {spread}"
    for mode, predicted in numbers["predicted"].items():
        ratio = numbers["bytes_in"] / predicted
        yield f"  {mode:6} {size(predicted):>9}  {ratio:.1f} times smaller"
    yield f"  ultra's relative delta error: {numbers['delta_error']:.4f}"


def _spread(ranks: dict[str, float]) -> str:
    low, high = ranks["min"], ranks["max"]
    return f"{low}" if low == high else f"{low} to {high}"
