"""Prints tables that fit a terminal, or plain lines into a pipe.

rich uses colours only at a terminal, and none with NO_COLOR.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table

from lensd.cli import fold

# For a pipe: no line that a script reads is wrapped.
PIPE_WIDTH = 10_000


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave the error to lensd.cli, because rich would exit with 1."""
        raise  # noqa: PLE0704 - rich calls this while it handles the error


def console(*, stderr: bool = False) -> Console:
    """A console on stdout (for data) or stderr (for messages). It does not interpret markup."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return _Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def table(*columns: str, numbers: tuple[str, ...] = (), **options: Any) -> Table:
    """A table without frames; the columns named in `numbers` are right-aligned."""
    result = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), **options)
    for column in columns:
        result.add_column(
            column,
            justify="right" if column in numbers else "left",
            overflow="fold",
            no_wrap=column in numbers,
        )
    return result


def columns_for_names(
    names: Sequence[str], rows: Callable[[Sequence[str]], Table], out: Console
) -> int:
    """The columns that the names in the first column of the table `rows(names)` may take."""
    unlimited = out.options.update(max_width=PIPE_WIDTH)
    excess = out.measure(rows(names), options=unlimited).maximum - out.width
    return max(map(cell_len, names)) - max(0, excess)


def show(*parts: RenderableType, stderr: bool = False, folds: bool = False) -> None:
    """Print lines and tables one below the other; `folds` as in `show_all`."""
    show_all(parts, stderr=stderr, folds=folds)


def show_all(parts: Iterable[RenderableType], *, stderr: bool = False, folds: bool = False) -> None:
    """Print lines and tables one below the other.

    `folds`: at a terminal, a long line of text becomes several, without a broken word.
    """
    out = console(stderr=stderr)
    for part in parts:
        if isinstance(part, str):
            click.echo(fold(part) if folds and out.is_terminal else part, err=stderr)
        elif out.is_terminal:
            out.print(part)
        else:
            with out.capture() as printed:
                out.print(part)
            for line in printed.get().splitlines():
                click.echo(line.rstrip(), err=stderr)


def is_for_people() -> bool:
    """Whether stdout is a terminal. Otherwise a script may read it and gets every line."""
    return sys.stdout.isatty()


def share_a_terminal() -> bool:
    """Whether stdout and stderr are the same terminal, so that they can disturb each other."""
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        return False
    return os.path.samestat(os.fstat(sys.stdout.fileno()), os.fstat(sys.stderr.fileno()))
