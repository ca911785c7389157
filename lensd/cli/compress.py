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
    from lensd.logs.measures import Compressed

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
    run_options = {name: options.pop(name) for name in ("device", "force")}
    settings = _settings(**options)
    code = EXIT_OK
    with Bar({path: os.path.getsize(path) for path in files}) as bar:
        for path in files:
            target = output or path.removesuffix(".safetensors") + SUFFIX
            bar.begin(path)
            measured = None
            try:
                measured = _compress(path, target, settings, bar, **run_options)
                made = {"output": target, "mode": settings.mode}
                numbers = {**msgspec.to_builtins(measured), **made}
            except FileError as end:
                numbers = {"reason": end.reason, "message": str(end)}
                bar.say(f"{end.outcome}: {path}: {end}")
                if isinstance(end, Failed):
                    code = EXIT_SOME_FAILED
            bar.end(path)
            if as_json:
                bar.print_line(json.dumps({**numbers, "path": printable(path)}))
            elif measured is not None:
                bar.print_line(visible(_describe(path, target, measured)))
    return code


def _settings(*, target_size: str | None, targets: str | None, **given: Any) -> Settings:
    """Validate the given options as the configuration is. Raises UsageError."""
    from lensd.config.document import Settings
    from lensd.config.sizes import parse_size

    given = {name: value for name, value in given.items() if value is not None}
    try:
        if target_size:
            given |= {"target_size": parse_size(target_size), "allocation": "file"}
        if targets:
            given["targets"] = tuple(targets.split(","))
        return Settings(**given)
    except ValueError as error:
        raise UsageError(f"an option has an invalid value: {error}") from None


def _compress(
    path: str, target: str, settings: Settings, bar: Bar, *, device: str, force: bool
) -> Compressed:
    """Stage beside the target, then give it its name. Raises FileError."""
    with staged(path, target, force=force) as new:
        with delay_interrupts():
            from lensd.engine import task  # importing torch takes a second

        from lensd.worker.request import CompressRequest

        return task.compress(
            CompressRequest(
                path=os.path.realpath(path),
                name=os.fsencode(os.path.basename(path)).decode("utf-8", "backslashreplace"),
                temporary=new.path,
                temporary_inode=new.inode,
                parameters=settings.parameters(),
                min_saving=0.0,
                device=device,
            ),
            functools.partial(bar.step, path),
        )


def _describe(path: str, target: str, measured: Compressed) -> str:
    return (
        f"{path}: {size(measured.bytes_in)} -> {target}: {size(measured.bytes_out)}, "
        f"{measured.bytes_in / measured.bytes_out:.1f} times smaller, "
        f"delta error {measured.delta_error:.4f}"
    )
