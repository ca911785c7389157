"""`lensd expand`: convert an 8-bit LoRA to float16."""

from __future__ import annotations

import os

import click

from lensd.cli import show_line
from lensd.cli.options import LORA
from lensd.cli.torch_import import importing_torch
from lensd.text import size

SUFFIX = ".float16.safetensors"


@click.command()
@click.argument("file", type=LORA)
@click.option("-o", "--output", metavar="OUT", help="The output file (default NAME" + SUFFIX + ").")
@click.option("--force", is_flag=True, help="Overwrite an existing output.")
def expand(file: str, output: str | None, force: bool) -> None:
    """Convert an 8-bit LoRA to float16; the input does not change.

    \b
    lensd expand style.safetensors                 to style.float16.safetensors
    lensd expand style.safetensors -o floats.safetensors

    Every program can load the output. Its values are those of the 8-bit file, rounded to float16;
    to get the file as it was before compression, use `lensd restore`.
    """
    from lensd.cli.staging import staged

    target = output or file.removesuffix(".safetensors") + SUFFIX
    with staged(file, target, force=force) as new:
        with importing_torch():
            from lensd.engine import expand as work

        result = work.expand(os.fspath(file), new.path, new.inode)
    show_line(
        f"{file}: {size(result.bytes_in)} -> {target}: {size(result.bytes_out)}, "
        f"{result.expanded} of {result.modules} modules expanded"
    )
