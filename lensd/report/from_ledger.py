"""Reads a report's history from the ledger. Works while a daemon runs and changes nothing."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from lensd.errors import Outcome
from lensd.report.documents import FromLedger
from lensd.report.history import ByteTotals, History
from lensd.report.record import Drawn, Measures, Record
from lensd.report.records import InMemory
from lensd.store.ledger import JobState, Ledger
from lensd.store.ledger.entry import Entry
from lensd.text import printable

# Outcomes whose files the report lists. The others (baseline, superseded) are only counted.
LISTED = (
    Outcome.COMPRESSED, Outcome.REPLACED, Outcome.RESTORED, Outcome.ANALYZED, Outcome.KEPT,
    Outcome.SKIPPED, Outcome.FAILED, Outcome.QUARANTINED,
)  # fmt: skip


def history(ledger: Ledger, state: str, *, drawn: bool = False) -> History:
    """All files of a ledger in the folder `state`; `drawn`: with the measures for charts."""
    kind = Drawn if drawn else Measures
    totals = ledger.files.totals()
    displaced = {output.job_id for output in ledger.files.displaced()}
    gone = {job_id for job_id, what in ledger.gone.known() if what == "file"}
    gone |= ledger.files.outdated().keys()
    return History(
        source=FromLedger(state=state),
        records=InMemory(
            record_of(replace(e, outcome=Outcome.REPLACED) if e.job_id in displaced else e, kind)
            for e in ledger.files.with_outcome(*LISTED)
            if e.state == JobState.DONE and e.job_id not in gone
        ),
        others={outcome: n for outcome, n in totals.outcomes.items() if outcome not in LISTED},
        totals=ByteTotals(totals.saved_in_folders, totals.held_by_archive, totals.net),
    )


def record_of(entry: Entry, kind: type[Measures]) -> Record:
    """The row's columns take precedence over its log line, because they follow a moved file."""
    measures = msgspec.convert(entry.line or {}, kind)
    measures.bytes_in = measures.bytes_in or entry.bytes_in
    measures.bytes_out = measures.bytes_out or entry.bytes_out
    measures.sha256_in = measures.sha256_in or entry.sha256_in
    measures.sha256_out = measures.sha256_out or entry.sha256_out
    measures.archive_path = entry.archive_path and printable(entry.archive_path)
    return Record(
        path=printable(entry.full_path),
        watch=entry.watch,
        job_id=entry.job_id,
        outcome=entry.outcome or "",
        when=entry.published or entry.updated,
        measures=measures,
        reason=entry.reason,
        message=entry.message,
        inside=printable(entry.path),
    )
