"""`lensd analyze --plot`: one picture, under its name whole or not at all."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lensd.cli.staging import require_free, write_text
from lensd.errors import UsageError

if TYPE_CHECKING:
    from lensd.logs.measures import Detailed


def require(files: Sequence[str], target: str, *, force: bool) -> None:
    """Raises UsageError for what would end in no picture, before a file is read."""
    if len(files) > 1:
        raise UsageError("--plot names one picture; give one file")
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError(
            "--plot draws with matplotlib, which is not installed: `pip install matplotlib` into "
            "lensd's environment, or install lensd with its extra `plot`"
        )
    require_free(files[0], target, force=force)


def write(path: str, found: Detailed, target: str, *, force: bool) -> None:
    """Draw what was found in one file. Raises UsageError and StorageError."""
    from lensd.engine import plot  # matplotlib takes a second

    write_text(target, plot.svg(path, found), force=force)
