"""`lensd analyze`: the spectrum of a LoRA and what each mode would give; writes no LoRA."""

from __future__ import annotations

import functools
import json
import os
from typing import TYPE_CHECKING, Any

import click
import msgspec

from lensd.cli.interrupts import uninterrupted
from lensd.cli.options import LORA
from lensd.errors import EXIT_OK, EXIT_SOME_FAILED, Failed, FileError
from lensd.text import printable

if TYPE_CHECKING:
    from lensd.cli.views.progress import Bar


@click.command()
@click.argument("files", nargs=-1, required=True, type=LORA)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a file, with every module.")
@click.option("--plot", "picture", metavar="OUT.svg", help="Draw spectrum and rank of each block.")
@click.option("--force", is_flag=True, help="With --plot: write over an existing picture.")
def analyze(files: tuple[str, ...], as_json: bool, picture: str | None, force: bool) -> int:
    """Show what a LoRA would shrink to; change nothing.

    For each block of the base model: modules, their rank, the median rank that holds a share of
    the energy, and bytes. For each mode: the file's size.

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
            try:
                numbers = {"path": printable(path), **_numbers(path, bar)}
            except FileError as end:
                numbers = {"path": printable(path), "reason": end.reason, "message": str(end)}
                bar.say(f"{end.outcome}: {path}: {end}")
                code = EXIT_SOME_FAILED if isinstance(end, Failed) else code
            bar.end(path)
            if picture is not None and "details" in numbers:
                plot.write(numbers, picture, force=force)
            if as_json:
                bar.line(json.dumps(numbers))
            elif "details" in numbers:
                with bar.away():
                    show(*parts(numbers))
    return code


def _numbers(path: str, bar: Bar) -> dict[str, Any]:
    """Raises FileError."""
    bar.begin(path)
    with uninterrupted():
        from lensd.engine import task  # torch takes a second; only this needs it
    from lensd.config.document import Settings
    from lensd.worker.request import AnalyzeRequest

    request = AnalyzeRequest(
        path=os.path.realpath(path),
        name=os.fsencode(os.path.basename(path)).decode("utf-8", "backslashreplace"),
        parameters=Settings().parameters(),
        device="cpu",
    )
    numbers: dict[str, Any] = msgspec.to_builtins(
        task.analyze_in_detail(request, functools.partial(bar.step, path))
    )
    return numbers
