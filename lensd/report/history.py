"""What a report is made from: the records of a ledger, of logs or of a manifest, and totals."""

from __future__ import annotations

import msgspec

from lensd.report.documents import FromLedger, FromLogs, FromManifest
from lensd.report.records import Records


class ByteTotals(msgspec.Struct, frozen=True):
    """Bytes saved in the folders, bytes of originals in the archive, and the difference."""

    saved_in_folders: int
    held_by_archive: int
    net: int


class Disk(msgspec.Struct, frozen=True):
    """A disk and what lensd has there: `holds` has names of watched folders, or `archive`."""

    holds: tuple[str, ...]
    free: int  # bytes
    size: int


class History(msgspec.Struct, kw_only=True):
    """Everything that a report is made from.

    `others`: the number of files per outcome without records (baseline, superseded). `totals`: of
    the ledger, or None. `unknown`: what the source does not contain, in words. `disks`: as they are
    now; none for logs.
    """

    source: FromLedger | FromLogs | FromManifest
    records: Records
    others: dict[str, int] = {}
    totals: ByteTotals | None = None
    unknown: list[str] = []
    disks: list[Disk] = []
