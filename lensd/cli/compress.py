"""`lensd compress`: compress a LoRA to a new file, without daemon, ledger or archive."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any, Literal

import click

from lensd.cli import show_line
from lensd.cli.options import LORA
from lensd.cli.settings import read_settings, settings_options
from lensd.cli.torch_import import importing_torch
from lensd.errors import UsageError
from lensd.text import printable, size

if TYPE_CHECKING:
    from lensd.cli.views.progress import Bar
    from lensd.config.settings import Settings
    from lensd.logs.measures import Compressed
    from lensd.report.documents import Compression

SUFFIX = ".lensd.safetensors"


@click.command()
@click.argument("files", nargs=-1, required=True, type=LORA)
@click.option("-o", "--output", metavar="OUT", help="The output file (default NAME" + SUFFIX + ").")
@settings_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per file.")
@click.option("--force", is_flag=True, help="Overwrite an existing output.")
def compress(
    files: tuple[str, ...],
    output: str | None,
    mode: Literal["rank", "int8", "ultra"],
    device: str,
    as_json: bool,
    force: bool,
    **settings: Any,
) -> int:
    """Compress a LoRA to a new file; the input does not change.

    \b
    lensd compress style.safetensors                 to style.lensd.safetensors
    lensd compress style.safetensors --mode rank     16-bit, for every program
    lensd compress style.safetensors --energy 0.999  error about 3 %, not 10 %
    lensd compress *.safetensors --target-size 32MB  the most energy in 32 MB
    """
    from msgspec import structs

    from lensd.cli.single_files import process_files
    from lensd.report.documents import Compression

    if output is not None and len(files) > 1:
        raise UsageError("-o takes one output: pass a single input or omit -o")
    chosen = read_settings(mode=mode, **settings)

    def process(path: str, bar: Bar) -> Compression:
        target = output or path.removesuffix(".safetensors") + SUFFIX
        measures = _compress(path, target, chosen, device, bar, force=force)
        return Compression(
            path=printable(path),
            output=printable(target),
            mode=mode,
            **structs.asdict(measures) | {"data_sha256_out": _hash_data(target)},
        )

    return process_files(files, process, _print, as_json=as_json, needs_lora=True)


def _compress(
    path: str, target: str, settings: Settings, device: str, bar: Bar, *, force: bool
) -> Compressed:
    """Stage the output beside the target and then rename it. Raises FileError."""
    from lensd.cli.staging import staged

    with staged(path, target, force=force) as new:
        with importing_torch():
            from lensd.engine import task
        from lensd.worker.request import CompressRequest

        request = CompressRequest(
            path=os.path.realpath(path),
            name=printable(os.path.basename(path)),
            temporary=new.path,
            temporary_inode=new.inode,
            parameters=settings.parameters(),
            min_saving=settings.min_saving,
            device=device,
        )
        return task.compress(request, functools.partial(bar.step, path))


def _hash_data(path: str) -> str:
    from lensd.store.hashing import data_sha256_of

    with open(path, "rb") as file:
        return data_sha256_of(file.fileno())


def _print(document: Compression, bar: Bar) -> None:
    line = (
        f"{document.path}: {size(document.bytes_in)} -> "
        f"{document.output}: {size(document.bytes_out)}, "
        f"{document.bytes_in / document.bytes_out:.1f} times smaller, "
        f"delta error {document.delta_error:.4f}"
    )
    with bar.hidden():
        show_line(line)
