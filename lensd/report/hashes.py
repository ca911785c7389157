"""The hashes by which programs and websites know a file, before and after it was compressed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import msgspec

from lensd.report.documents import Hashes
from lensd.text import printable, visible

if TYPE_CHECKING:
    from lensd.store.ledger.entry import Entry


def of(entry: Entry) -> Hashes:
    """The hashes of a compressed file. None: not known (an older lensd compressed it, or the
    ledger was lost since).
    """
    line = entry.line or {}
    data = line.get("data_sha256_in"), line.get("data_sha256_out")
    return row(printable(entry.full_path), (entry.sha256_in, entry.sha256_out), data)


def row(
    path: str, files: tuple[str | None, str | None], data: tuple[str | None, str | None]
) -> Hashes:
    """All hashes, from the sha256 of original and output: of the file, and of its data section.

    `original` and `output` are the sha256 of the whole file, AutoV2 is its first 10 digits. AutoV3
    is the first 12 digits of the sha256 of what follows the header.
    """
    original, output = files
    return Hashes(
        original=original,
        original_autov2=original and original[:10],
        original_autov3=data[0] and data[0][:12],
        output=output,
        output_autov2=output and output[:10],
        output_autov3=data[1] and data[1][:12],
        path=path,
    )


def tsv(rows: Iterable[Hashes]) -> Iterator[str]:
    """A line of names, then one per file; an empty cell is not known."""
    yield "\t".join(Hashes.__struct_fields__)
    for row in rows:
        yield "\t".join(visible(cell or "") for cell in msgspec.structs.astuple(row))


def blocks(rows: Iterable[Hashes]) -> Iterator[str]:
    """For a terminal: three lines a file, which are shorter than one."""
    for row in rows:
        yield visible(row.path)
        yield _block("original", row.original, row.original_autov2, row.original_autov3)
        yield _block("output", row.output, row.output_autov2, row.output_autov3)


def _block(kind: str, sha256: str | None, autov2: str | None, autov3: str | None) -> str:
    return f"  {kind:8}  sha256 {sha256 or '-'}  AutoV2 {autov2 or '-'}  AutoV3 {autov3 or '-'}"
