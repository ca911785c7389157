"""The ledger counts and ages archived originals."""

from __future__ import annotations

from lensd.store.ledger import JobState, Ledger, Outcome
from tests.store.ledger.conftest import FIRST, ROOT, WATCH


def test_how_often_an_original_was_published(ledger: Ledger) -> None:
    """Each time that it was compressed under this path, except by `once --redo`."""
    for job in ("one", "two", "redone"):
        ledger.jobs.enqueue(job, ROOT, WATCH, "a", FIRST, redo=job == "redone")
        ledger.jobs.finish(job, Outcome.COMPRESSED, sha256_in="abc")
        ledger.files.replace_older(ROOT, "a", job)
    ledger.jobs.enqueue("other", ROOT, WATCH, "b", FIRST)
    ledger.jobs.finish("other", Outcome.COMPRESSED, sha256_in="abc")
    assert ledger.originals.count_published(ROOT, "a", "abc") == 2
    assert ledger.originals.count_published(ROOT, "a", "abd") == 0
    assert ["redone", "other"] == [e.job_id for e in ledger.files.with_outcome(Outcome.COMPRESSED)]


def test_originals_are_pruned_by_the_time_of_publishing(ledger: Ledger) -> None:
    """Later changes do not make a row younger; all rows of one archived file lose it together."""
    for job, archived in (("one", "/a/x"), ("redone", "/a/x"), ("kept", None)):
        ledger.jobs.enqueue(job, ROOT, WATCH, job, FIRST)
        ledger.jobs.update(
            job,
            state=JobState.PUBLISHED,
            outcome=Outcome.COMPRESSED,
            sha256_in="abc",
            archive_path=archived,
        )
        ledger.jobs.finish(job, Outcome.COMPRESSED)
    published = ledger.jobs.get("redone").published
    assert published is not None
    ledger.jobs.update("redone", emitted=1)
    assert ledger.jobs.get("redone").published == published
    assert [] == list(ledger.originals.published_before(ledger.jobs.get("one").published or 0))
    assert ["one", "redone"] == [e.job_id for e in ledger.originals.published_before(published + 1)]
    ledger.originals.record_pruned("one")
    assert [] == list(ledger.originals.published_before(published + 1))
    assert ledger.files.totals().held_by_archive == 0
    ledger.originals.record_pruned("kept")
