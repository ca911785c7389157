"""The hashes by which programs and websites know a compressed file and its original."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from lensd.errors import DiskUnavailable
from lensd.jobs import data_hashes
from lensd.report.documents import Hashes
from lensd.store.identity import Identity
from lensd.text import printable, visible
from lensd.watcher.own_output import read_marks

if TYPE_CHECKING:
    from lensd.store.archive import Archive
    from lensd.store.ledger.entry import Entry


def of_entry(archive: Archive, entry: Entry) -> Hashes:
    """The hashes of a compressed file.

    AutoV3 is computed here, from the archived original and from the output, where the ledger does
    not have it yet. None: the file is away or has changed, or the ledger was lost.
    """
    line = entry.line or {}
    with suppress(DiskUnavailable):  # the archive is away
        line = {**line, **data_hashes.compute(archive, entry)}
    data = line.get(data_hashes.ORIGINAL), line.get(data_hashes.OUTPUT)
    return from_sha256(printable(entry.full_path), (entry.sha256_in, entry.sha256_out), data)


def is_there(entry: Entry) -> bool:
    """Whether a row's output lies at its path, or nothing, or what this process may not read."""
    path = entry.full_path
    try:
        found = Identity.of(os.lstat(path))
    except OSError:
        return True
    marked = read_marks(entry.root, entry.path)
    if marked is None:
        return found.same_content(entry.present) or not os.access(path, os.R_OK)
    return marked.sha256 == entry.sha256_in


def from_sha256(
    path: str, files: tuple[str | None, str | None], data: tuple[str | None, str | None]
) -> Hashes:
    """All hashes, from the sha256 of whole files and of data sections: (original, output) each.

    AutoV2 is the first 10 digits of the file's sha256. AutoV3 is the first 12 digits of the sha256
    of the data section, which follows the header.
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
    """A line of column names, then a line per file. An empty cell: not known."""
    yield "\t".join(Hashes.__struct_fields__)
    for row in rows:
        yield "\t".join(visible(cell or "") for cell in msgspec.structs.astuple(row))


def blocks(rows: Iterable[Hashes]) -> Iterator[str]:
    """Three lines per file, for a terminal."""
    for row in rows:
        yield visible(row.path)
        yield _block("original", row.original, row.original_autov2, row.original_autov3)
        yield _block("output", row.output, row.output_autov2, row.output_autov3)


def _block(kind: str, sha256: str | None, autov2: str | None, autov3: str | None) -> str:
    return f"  {kind:8}  sha256 {sha256 or '-'}  AutoV2 {autov2 or '-'}  AutoV3 {autov3 or '-'}"
