"""`lensd analyze`: show the ranks of a LoRA and its size in each mode; write no LoRA."""

from __future__ import annotations

import functools
import json
import os
from typing import TYPE_CHECKING

import click
import msgspec

from lensd.cli.interrupts import delay_interrupts
from lensd.cli.options import LORA
from lensd.errors import EXIT_OK, EXIT_SOME_FAILED, Failed, FileError
from lensd.text import printable

if TYPE_CHECKING:
    from lensd.cli.views.progress import Bar
    from lensd.logs.measures import Detailed


@click.command()
@click.argument("files", nargs=-1, required=True, type=LORA)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object per file, with all modules."
)
@click.option("--plot", "picture", metavar="OUT.svg", help="Draw spectrum and rank of each block.")
@click.option("--force", is_flag=True, help="With --plot: overwrite an existing file.")
def analyze(files: tuple[str, ...], as_json: bool, picture: str | None, force: bool) -> int:
    """Show how small a LoRA would become; change nothing.

    For each block of the base model, lensd prints the number of modules, their rank, the median
    rank that contains each share of the energy, and the bytes; for each mode, the size of the
    output.

    \b
    lensd analyze style.safetensors
    lensd analyze style.safetensors --plot style.svg
    lensd analyze *.safetensors --json | jq '[.path, .predicted.ultra]'
    """
    from lensd.cli.views.analysis import parts
    from lensd.cli.views.progress import Bar
    from lensd.cli.views.terminal import show

    if picture is not None:
        from lensd.cli import plot

        plot.require(files, picture, force=force)
    code = EXIT_OK
    with Bar({path: os.path.getsize(path) for path in files}) as bar:
        for path in files:
            found = None
            try:
                found = _analyze(path, bar)
                numbers = {"path": printable(path), **msgspec.to_builtins(found)}
            except FileError as end:
                numbers = {"path": printable(path), "reason": end.reason, "message": str(end)}
                bar.say(f"{end.outcome}: {path}: {end}")
                code = EXIT_SOME_FAILED if isinstance(end, Failed) else code
            bar.end(path)
            if picture is not None and found is not None:
                plot.write(printable(path), found, picture, force=force)
            if as_json:
                bar.print_line(json.dumps(numbers))
            elif found is not None:
                with bar.hidden():
                    show(*parts(printable(path), found))
    return code


def _analyze(path: str, bar: Bar) -> Detailed:
    """Raises FileError."""
    bar.begin(path)
    with delay_interrupts():
        from lensd.engine import task  # importing torch takes a second
    from lensd.config.document import Settings
    from lensd.worker.request import AnalyzeRequest

    request = AnalyzeRequest(
        path=os.path.realpath(path),
        name=os.fsencode(os.path.basename(path)).decode("utf-8", "backslashreplace"),
        parameters=Settings().parameters(),
        device="cpu",
    )
    return task.analyze_in_detail(request, functools.partial(bar.step, path))
