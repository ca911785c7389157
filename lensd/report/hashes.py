"""By which hashes programs and websites know a file: before and after it was compressed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from lensd.text import visible

if TYPE_CHECKING:
    from lensd.store.ledger.entry import Entry

COLUMNS = (
    "original",
    "original_autov2",
    "original_autov3",
    "output",
    "output_autov2",
    "output_autov3",
    "path",
)


def of(entry: Entry) -> dict[str, str | None]:
    """The columns of a compressed file. None: not known (an older lensd compressed it, or the
    ledger was lost since).
    """
    line = entry.line or {}
    data = line.get("data_sha256_in"), line.get("data_sha256_out")
    return row(entry.full_path, (entry.sha256_in, entry.sha256_out), data)


def row(
    path: str, files: tuple[str | None, str | None], data: tuple[str | None, str | None]
) -> dict[str, str | None]:
    """The columns, from the sha256 of original and output, whole (`files`) and without headers.

    `original` and `output` are the sha256 of the whole file, AutoV2 is its first 10 digits. AutoV3
    is the first 12 digits of the sha256 of what follows the header.
    """
    found: dict[str, str | None] = {}
    for name, whole, tensors in zip(("original", "output"), files, data, strict=True):
        found |= {
            name: whole,
            f"{name}_autov2": whole and whole[:10],
            f"{name}_autov3": tensors and tensors[:12],
        }
    return found | {"path": path}


def tsv(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """A line of names, then one per file; an empty cell is not known."""
    yield "\t".join(COLUMNS)
    for row in rows:
        yield "\t".join(visible(row[column] or "") for column in COLUMNS)


def blocks(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """For a person: three lines a file, which fit a terminal better than one."""
    for row in rows:
        yield visible(row["path"])
        for kind in ("original", "output"):
            sha256, *short = (row[f"{kind}{part}"] or "-" for part in ("", "_autov2", "_autov3"))
            yield f"  {kind:8}  sha256 {sha256}  AutoV2 {short[0]}  AutoV3 {short[1]}"
