"""`lensd analyze --plot`: draw the spectrum and the ranks of a LoRA."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import UnsetType

from lensd.cli.staging import require_free, write_text
from lensd.errors import UsageError

if TYPE_CHECKING:
    from lensd.report.documents import Analysis


def check_usage(files: Sequence[str], target: str, *, force: bool) -> None:
    """Raises UsageError if the picture cannot be drawn, before any file is read."""
    if len(files) > 1:
        raise UsageError("--plot takes one picture: pass a single file")
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError(
            "--plot needs matplotlib, which is not installed: `pip install matplotlib` in lensd's "
            "environment, or install lensd with its extra `plot`"
        )
    require_free(files[0], target, force=force)


def write(document: Analysis, target: str, *, force: bool) -> None:
    """Draw one file. Raises UsageError and StorageError."""
    from lensd.engine import plot  # importing matplotlib takes a second

    d = document
    if isinstance(d.spectrum, UnsetType):
        raise UsageError(f"{d.path} has only LoHa, LoKr or Tucker modules, which have no spectrum")
    write_text(target, plot.draw_svg(d.path, d.blocks, d.spectrum, d.details), force=force)
