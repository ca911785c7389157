"""What `lensd init` shows: the programs that it found, warnings, and the next steps."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from lensd.cli import say, show_line
from lensd.config.first import is_same_disk
from lensd.config.load import find_config
from lensd.errors import ConfigError
from lensd.store.space import count_files
from lensd.text import plural, size, visible

if TYPE_CHECKING:
    from lensd.config.installations import Installation


def show_installations(found: Sequence[Installation]) -> None:
    """Print each program with its folders, and how many files are in these."""
    for program in found:
        show_line(f"{program.program} in {program.folder}", err=True)
        for path in program.loras:
            count, total = count_files([path])
            show_line(f"  {path}: {describe_files(count, total)}", err=True)
        if not program.loras:
            click.echo("  no folder for LoRAs yet", err=True)
    if not found:
        click.echo("No program that loads LoRAs was found.", err=True)


def describe_files(count: int, total: int) -> str:
    """E.g. `1 file, 151.1 MB`."""
    return f"{plural(count)}, {size(total)}"


def warn_same_disk(archive: str, watched: Sequence[str]) -> None:
    """Warn if the archive frees no space, because it is on the disk of a watched folder."""
    same = [path for path in watched if is_same_disk(archive, path)]
    if same:
        say(
            f"warning: the archive {archive} is on the same disk as {', '.join(same)}, so lensd "
            "alone frees no space there; choose a folder on another disk, or set "
            "`archive.keep_days`, after which originals are deleted"
        )


def show_next_steps(path: str, existing: str) -> None:
    """Print the commands that come next."""
    given = "" if _is_found(path) else f" -c {shlex.quote(path)}"
    click.echo("\nNext:")
    if existing == "leave":
        _show_command(f"lensd once --dry-run{given}", "shows what it would do to the files there")
    _show_command(f"lensd run{given}", "compresses each file that arrives, until ^C")


def show_service_command(path: str) -> None:
    """Print how to start lensd at boot."""
    command = f"sudo {shlex.quote(_program())} service --install -c {shlex.quote(path)}"
    _show_command(command, "starts it at each boot")


def _show_command(command: str, purpose: str) -> None:
    click.echo(visible(f"  {command}"))
    click.echo(f"      {purpose}")


def _is_found(path: str) -> bool:
    """Whether the commands find a configuration without -c."""
    try:
        return os.path.samefile(find_config(None), path)
    except (ConfigError, OSError):
        return False


def _program() -> str:
    """The path of lensd: sudo may not find it by its name."""
    beside = os.path.join(os.path.dirname(sys.executable), "lensd")
    return beside if os.path.exists(beside) else "lensd"
