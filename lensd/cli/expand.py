"""`lensd expand`: an int8 LoRA to a float16 file, for diffusers and whatever else wants floats."""

from __future__ import annotations

import os

import click

from lensd.cli.interrupts import uninterrupted
from lensd.cli.options import LORA
from lensd.cli.staging import staged
from lensd.text import size, visible

SUFFIX = ".float16.safetensors"


@click.command()
@click.argument("file", type=LORA)
@click.option("-o", "--output", metavar="OUT", help="Where to write (default NAME" + SUFFIX + ").")
@click.option("--force", is_flag=True, help="Write over an existing output.")
def expand(file: str, output: str | None, force: bool) -> None:
    """Make an int8 LoRA float16 again; the input is never changed.

    \b
    lensd expand style.safetensors                 to style.float16.safetensors
    lensd expand style.safetensors -o floats.safetensors

    The result means the same as the int8 file, to float16's rounding, and every program loads it;
    for the file as it was before compression use `lensd restore`.
    """
    target = output or file.removesuffix(".safetensors") + SUFFIX
    with staged(file, target, force=force) as new:
        with uninterrupted():
            from lensd.engine import expand as work  # torch takes a second; only this needs it

        found = work.expand(os.fspath(file), new.path, new.inode)
    click.echo(
        visible(
            f"{file}: {size(found.bytes_in)} -> {target}: {size(found.bytes_out)}, "
            f"{found.expanded} of {found.modules} modules expanded"
        )
    )
