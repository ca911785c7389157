"""What verbs print for people: tables that fit a terminal, plain lines where there is none.

rich decides by itself: colours at a terminal only, none with NO_COLOR.
"""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.table import Table

# A pipe has no width; lines that scripts read are not to be broken.
PIPE_WIDTH = 10_000


def console(*, stderr: bool = False) -> Console:
    """stdout for data, stderr for messages; text is printed as it is, never read as markup."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


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
