"""`lensd compress`: compress a LoRA to a new file, without daemon, ledger or archive."""

from __future__ import annotations

import functools
import json
import os
from typing import TYPE_CHECKING, Any

import click
import msgspec

from lensd.cli.interrupts import delay_interrupts
from lensd.cli.options import LORA
from lensd.cli.staging import staged
from lensd.errors import EXIT_OK, EXIT_SOME_FAILED, Failed, FileError, UsageError
from lensd.text import printable, size, visible

if TYPE_CHECKING:
    from lensd.cli.views.progress import Bar
    from lensd.config.document import Settings

SUFFIX = ".lensd.safetensors"


@click.command()
@click.argument("files", nargs=-1, required=True, type=LORA)
@click.option("-o", "--output", metavar="OUT", help="The output file (default NAME" + SUFFIX + ").")
@click.option(
    "--mode",
    type=click.Choice(["rank", "int8", "ultra"]),
    default="ultra",
    show_default=True,
    help="rank: lower ranks. int8: 8-bit numbers. ultra: both.",
)
@click.option(
    "--energy", type=float, help="The share of squared singular values to keep, e.g. 0.999."
)
@click.option(
    "--allocation",
    type=click.Choice(["module", "file"]),
    help="Whether each module keeps that energy, or the whole file does, in fewer bytes.",
)
@click.option("--target-size", metavar="SIZE", help="Keep the most energy that fits, e.g. in 32MB.")
@click.option("--max-rank", type=int, metavar="RANK", help="The highest rank of any module.")
@click.option("--targets", metavar="T,...", help="The programs that must load the output.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:N or auto.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per file.")
@click.option("--force", is_flag=True, help="Overwrite an existing output.")
def compress(files: tuple[str, ...], output: str | None, as_json: bool, **options: Any) -> int:
    """Compress a LoRA to a new file; the input does not change.

    \b
    lensd compress style.safetensors                 to style.lensd.safetensors
    lensd compress style.safetensors --mode rank     16-bit, for every program
    lensd compress style.safetensors --energy 0.999  error at most 3 %, not 10 %
    lensd compress *.safetensors --target-size 32MB  the most energy in 32 MB
    """
    from lensd.cli.views.progress import Bar

    if output is not None and len(files) > 1:
        raise UsageError("-o takes one output: pass a single input or omit -o")
    settings = _settings(options)
    code = EXIT_OK
    with Bar({path: os.path.getsize(path) for path in files}) as bar:
        for path in files:
            target = output or path.removesuffix(".safetensors") + SUFFIX
            bar.begin(path)
            try:
                numbers = _compress(path, target, settings, options, bar)
            except FileError as end:
                numbers = {"path": path, "reason": end.reason, "message": str(end)}
                bar.say(f"{end.outcome}: {path}: {end}")
                if isinstance(end, Failed):
                    code = EXIT_SOME_FAILED
            bar.end(path)
            if as_json:
                bar.print_line(json.dumps({**numbers, "path": printable(path)}))
            elif "bytes_out" in numbers:
                bar.print_line(visible(_describe(path, target, numbers)))
    return code


def _settings(options: dict[str, Any]) -> Settings:
    """Validate the given options as the configuration is. Raises UsageError."""
    from lensd.config.document import Settings
    from lensd.config.sizes import parse_size

    given = {k: options[k] for k in ("mode", "energy", "allocation", "max_rank")}
    given = {name: value for name, value in given.items() if value is not None}
    try:
        if options["target_size"]:
            given |= {"target_size": parse_size(options["target_size"]), "allocation": "file"}
        if options["targets"]:
            given["targets"] = tuple(options["targets"].split(","))
        return Settings(**given)
    except ValueError as error:
        raise UsageError(f"an option has an invalid value: {error}") from None


def _compress(
    path: str, target: str, settings: Settings, options: dict[str, Any], bar: Bar
) -> dict[str, Any]:
    """Stage beside the target, then give it its name. Raises FileError."""
    with staged(path, target, force=options["force"]) as new:
        with delay_interrupts():
            from lensd.engine import task  # importing torch takes a second

        from lensd.worker.request import CompressRequest

        measured = task.compress(
            CompressRequest(
                path=os.path.realpath(path),
                name=os.fsencode(os.path.basename(path)).decode("utf-8", "backslashreplace"),
                temporary=new.path,
                temporary_inode=new.inode,
                parameters=settings.parameters(),
                min_saving=0.0,
                device=options["device"],
            ),
            functools.partial(bar.step, path),
        )
    numbers: dict[str, Any] = msgspec.to_builtins(measured)
    return numbers | {"output": target, "mode": settings.mode}


def _describe(path: str, target: str, numbers: dict[str, Any]) -> str:
    return (
        f"{path}: {size(numbers['bytes_in'])} -> {target}: {size(numbers['bytes_out'])}, "
        f"{numbers['bytes_in'] / numbers['bytes_out']:.1f} times smaller, "
        f"delta error {numbers['delta_error']:.4f}"
    )
