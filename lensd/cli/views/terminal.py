"""What verbs print for people: tables that fit a terminal, plain lines where there is none.

rich decides by itself: colours at a terminal only, none with NO_COLOR.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import click
from rich.console import Console, RenderableType
from rich.table import Table

# A pipe has no width; lines that scripts read are not to be broken.
PIPE_WIDTH = 10_000


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Left to the one place where errors become exit codes: rich would end with 1."""
        raise  # noqa: PLE0704 - called while the error is handled


def console(*, stderr: bool = False) -> Console:
    """stdout for data, stderr for messages; text is printed as it is, never read as markup."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return _Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def table(*columns: str, numbers: tuple[str, ...] = (), **options: Any) -> Table:
    """A table without frames; the columns named in `numbers` are right-aligned."""
    found = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), **options)
    for column in columns:
        found.add_column(
            column,
            justify="right" if column in numbers else "left",
            overflow="fold",
            no_wrap=column in numbers,
        )
    return found


def show(*parts: RenderableType, stderr: bool = False) -> None:
    """Print lines and tables one below the other; a line of text is never broken."""
    out = console(stderr=stderr)
    for part in parts:
        if isinstance(part, str):
            click.echo(part, err=stderr)
        elif out.is_terminal:
            out.print(part)
        else:
            with out.capture() as printed:
                out.print(part)
            for line in printed.get().splitlines():
                click.echo(line.rstrip(), err=stderr)


def is_for_people() -> bool:
    """Whether stdout is a terminal; else its lines are a script's to read, and all of them come."""
    return sys.stdout.isatty()


def share_a_terminal() -> bool:
    """Whether stdout and stderr write to one terminal, so that each could tear the other's line."""
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        return False
    return os.path.samestat(os.fstat(sys.stdout.fileno()), os.fstat(sys.stderr.fileno()))
