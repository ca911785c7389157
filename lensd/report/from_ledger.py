"""The ledger's rows -> a report's history. Reads only, beside a running daemon or without one."""

from __future__ import annotations

import msgspec

from lensd.report.documents import FromLedger
from lensd.report.record import ByteTotals, Drawn, History, Measures, Record
from lensd.store.ledger import Ledger
from lensd.store.ledger.entry import Entry
from lensd.text import printable

# Files that lensd did something about; the others (baseline, superseded) are only counted.
ENDS = (
    "compressed", "replaced", "restored", "analyzed", "kept", "skipped", "failed", "quarantined",
)  # fmt: skip


def history(ledger: Ledger, where: str, *, drawn: bool = False) -> History:
    """All files of a ledger in the state folder `where`; `drawn`: with what pictures need."""
    kind = Drawn if drawn else Measures
    totals = ledger.files.totals()
    return History(
        source=FromLedger(state=where),
        records=[_record(e, kind) for e in ledger.files.with_outcome(*ENDS) if e.state == "done"],
        others={outcome: n for outcome, n in totals.outcomes.items() if outcome not in ENDS},
        totals=ByteTotals(totals.saved_in_folders, totals.held_by_archive, totals.net),
    )


def _record(entry: Entry, kind: type[Measures]) -> Record:
    """The row's own columns go before the line's: they follow a file that is moved."""
    measures = msgspec.convert(entry.line or {}, kind)
    measures.bytes_in = measures.bytes_in or entry.bytes_in
    measures.bytes_out = measures.bytes_out or entry.bytes_out
    measures.sha256_in = measures.sha256_in or entry.sha256_in
    measures.sha256_out = measures.sha256_out or entry.sha256_out
    measures.archive_path = _readable(entry.archive_path)
    return Record(
        path=printable(entry.full_path),
        watch=entry.watch,
        job_id=entry.job_id,
        outcome=entry.outcome or "",
        when=entry.published or entry.updated,
        measures=measures,
        reason=entry.reason,
        message=entry.message,
    )


def _readable(path: str | None) -> str | None:
    return None if path is None else printable(path)
