"""`lensd analyze`: show the ranks of a LoRA and its size in each mode; write no LoRA."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

import click

from lensd.cli.options import LORA
from lensd.cli.torch_import import importing_torch
from lensd.text import printable

if TYPE_CHECKING:
    from lensd.cli.views.progress import Bar
    from lensd.report.documents import Analysis


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
    from lensd.cli.single_files import process_files

    if picture is not None:
        from lensd.cli import plot

        plot.check_usage(files, picture, force=force)

    def process(path: str, bar: Bar) -> Analysis:
        document = _analyze(path, bar)
        if picture is not None:
            plot.write(document, picture, force=force)
        return document

    return process_files(files, process, _print, as_json=as_json)


def _analyze(path: str, bar: Bar) -> Analysis:
    """Raises FileError."""
    from msgspec import structs

    with importing_torch():
        from lensd.engine import task
    from lensd.config.settings import Settings
    from lensd.report.documents import Analysis
    from lensd.worker.request import AnalyzeRequest

    request = AnalyzeRequest(
        path=os.path.realpath(path),
        name=printable(os.path.basename(path)),
        parameters=Settings().parameters(),
        device="cpu",
    )
    measures = task.analyze_in_detail(request, functools.partial(bar.step, path))
    return Analysis(path=printable(path), **structs.asdict(measures))


def _print(document: Analysis, bar: Bar) -> None:
    from lensd.cli.views.analysis import render
    from lensd.cli.views.terminal import show

    with bar.hidden():
        show(*render(document))
