"""Jobs keep their state across a restart and leave the queue in order."""

from __future__ import annotations

from pathlib import Path

import pytest

from lensd.store.ledger import JobState, Ledger, Outcome
from tests.store.ledger.conftest import FIRST, ODD, ROOT, WATCH


def test_a_job_survives_a_restart_with_all_its_columns(tmp_path: Path) -> None:
    """Names may be other than UTF-8 and have several lines; all columns keep their values."""
    ledger = Ledger(str(tmp_path), "1.0")
    ledger.jobs.enqueue("job", ROOT, WATCH, ODD, FIRST)
    staged = FIRST._replace(inode=11)
    line = {"path": f"{ROOT}/{ODD}", "seconds": {"total": 1.5}}
    ledger.jobs.update(
        "job", state=JobState.PUBLISHING, staged=staged, line=line, archive_path=f"/a/{ODD}"
    )
    ledger.close()
    ledger = Ledger(str(tmp_path), "1.0")
    entry = ledger.jobs.get("job")
    ledger.close()
    assert (entry.path, entry.identity, entry.staged) == (ODD, FIRST, staged)
    assert (entry.line, entry.archive_path) == (line, f"/a/{ODD}")
    assert entry.full_path == f"{ROOT}/{ODD}"
    assert entry.state == JobState.PUBLISHING


def test_messages_may_name_any_file(ledger: Ledger) -> None:
    """A message with a file name that is not UTF-8 is stored as readable text."""
    ledger.jobs.enqueue("job", ROOT, WATCH, ODD, FIRST)
    ledger.jobs.finish("job", Outcome.FAILED, reason="io_error", message=f"{ODD} is broken")
    assert ledger.jobs.get("job").message == "caf\\xe9\n[1]%.safetensors is broken"
    ledger.state.set_waiting(ROOT, ODD, WATCH, f"{ODD}.part lies beside it")
    assert "caf\\xe9" in ledger.state.waiting()[0].reason


def test_the_queue_is_in_order_and_failed_attempts_come_last(ledger: Ledger) -> None:
    """A file on which the worker dies does not delay the others."""
    for name in ("first", "second", "third"):
        ledger.jobs.enqueue(name, ROOT, WATCH, name, FIRST)
    ledger.jobs.update("first", attempts=1)
    order = []
    while (entry := ledger.jobs.next_queued()) is not None:
        order.append(entry.job_id)
        ledger.jobs.finish(entry.job_id, Outcome.COMPRESSED)
    assert order == ["second", "third", "first"]


def test_the_smallest_file_of_a_root(ledger: Ledger) -> None:
    """With its size; failed attempts come last here too, and other roots are left out."""
    for number, size in enumerate((30, 10, 20, 5)):
        file = FIRST._replace(size=size)
        ledger.jobs.enqueue(str(size), ROOT if number < 3 else "/srv/other", WATCH, str(size), file)
    ledger.jobs.update("10", attempts=1)
    smallest = ledger.jobs.next_queued(root=ROOT, smallest=True)
    assert smallest is not None
    assert smallest.job_id == "20"
    ledger.jobs.finish("20", Outcome.COMPRESSED)
    anywhere = ledger.jobs.next_queued(smallest=True, but=["5"])
    assert anywhere is not None
    assert anywhere.job_id == "30"


def _order(ledger: Ledger, now: float | None = None) -> list[str]:
    """The queued jobs in the order in which they are taken."""
    taken = []
    while (entry := ledger.jobs.next_queued(now)) is not None:
        taken.append(entry.job_id)
        ledger.jobs.update(entry.job_id, state=JobState.RUNNING)
    for name in taken:
        ledger.jobs.update(name, state=JobState.QUEUED)
    return taken


@pytest.mark.parametrize(
    ("paused", "taken"),
    [
        ([], []),
        ([""], []),
        ([ROOT], ["other"]),
        ([f"{ROOT}/sub"], ["top", "near", "odd", "other"]),
        ([f"{ROOT}/su"], ["top", "in", "near", "odd", "other"]),
        ([f"{ROOT}/{ODD}", "/srv/other"], ["top", "in", "near"]),
        (["/"], []),
        ([f"{ROOT}/"], ["other"]),
        ([f"{ROOT}/top.safetensors"], ["in", "near", "odd", "other"]),
    ],
)
def test_paused_jobs_are_not_taken(
    tmp_path: Path, ledger: Ledger, paused: list[str], taken: list[str]
) -> None:
    """A pause of a folder does not match a longer name; names are bytes and not patterns."""
    files = {"top": "top.safetensors", "in": "sub/a.safetensors", "near": "sub2/a.safetensors"}
    for job, path in {**files, "odd": ODD}.items():
        ledger.jobs.enqueue(job, ROOT, WATCH, path, FIRST)
    ledger.jobs.enqueue("other", "/srv/other", "other", "a.safetensors", FIRST)
    ledger.state.pause(paused)
    ledger.close()
    again = Ledger(str(tmp_path), "1.0")
    assert sorted(path.rstrip("/") for path in paused or [""]) == again.state.paused()
    assert taken == _order(again)
    again.state.resume(paused)
    assert [] == again.state.paused()
    assert len(_order(again)) == 5
    again.close()


def test_a_postponed_job_waits_for_its_time(tmp_path: Path, ledger: Ledger) -> None:
    """It is queued again with reason and message; other jobs run before it."""
    for name in ("sick", "well"):
        ledger.jobs.enqueue(name, ROOT, WATCH, name, FIRST)
    ledger.jobs.update("sick", state=JobState.RUNNING, temporary=".lensd-sick.tmp", staged=FIRST)
    ledger.jobs.postpone("sick", 1_000.0, "io_error", f"{ODD} cannot be read")
    ledger.jobs.postpone("sick", 2_000.0, "io_error", f"{ODD} cannot be read")
    ledger.close()
    ledger = Ledger(str(tmp_path), "1.0")
    entry = ledger.jobs.get("sick")
    assert (entry.state, entry.retries, entry.not_before) == ("queued", 2, 2_000.0)
    assert (entry.reason, entry.temporary, entry.staged) == ("io_error", None, None)
    assert ["well"] == _order(ledger, 1_999.0)
    assert ["sick", "well"] == _order(ledger, 2_000.0)
    ledger.close()


def test_a_job_does_not_wait_for_the_time_of_a_wrong_clock(ledger: Ledger) -> None:
    """It was postponed while the clock was a year ahead, and the clock is right again."""
    ledger.jobs.enqueue("sick", ROOT, WATCH, "sick", FIRST)
    now, year = 1.8e9, 365 * 86400.0
    ledger.jobs.postpone("sick", now + year + 10, "io_error", "it cannot be read")
    assert _order(ledger, now + year) == []
    assert ledger.jobs.next_due(now + year) == now + year + 10
    assert _order(ledger, now) == ["sick"]


def test_a_released_version_is_unknown_again(ledger: Ledger) -> None:
    """For `once` and `retry`, and for files that an older lensd quarantined."""
    ledger.files.record_baseline(ROOT, WATCH, [("a", FIRST), ("b", FIRST)])
    ledger.roots.add(ROOT, WATCH)
    entry = ledger.files.knows(ROOT, "a", FIRST)
    assert entry is not None
    assert entry.outcome == Outcome.BASELINE
    ledger.jobs.release([entry])
    assert ledger.files.knows(ROOT, "a", FIRST) is None
    assert ledger.files.knows(ROOT, "b", FIRST)


def test_files_that_another_version_quarantined_are_found(tmp_path: Path, ledger: Ledger) -> None:
    """Not those that the running version quarantined."""
    ledger.jobs.enqueue("job", ROOT, WATCH, "a", FIRST)
    ledger.jobs.finish("job", Outcome.QUARANTINED)
    assert [] == ledger.jobs.quarantined_before("1.0")
    ledger.close()
    newer = Ledger(str(tmp_path), "1.1")
    assert ["job"] == [entry.job_id for entry in newer.jobs.quarantined_before("1.1")]
    newer.close()
