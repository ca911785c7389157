"""Finishes or takes back one job that a crash interrupted, as `recover_decision` decides."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from lensd.errors import Reason, Skipped
from lensd.jobs import commit, reread
from lensd.jobs.context import JobContext
from lensd.jobs.recover_decision import Content, Facts, Verdict, decide
from lensd.jobs.replaced import find_replaced
from lensd.jobs.reread import Held
from lensd.store import publish
from lensd.store.fs import fsync_folder, identity_at, open_folder, temporary_name
from lensd.store.identity import Identity
from lensd.store.ledger import JobState, Outcome
from lensd.store.ledger.entry import Entry
from lensd.store.swap import swap

LOOKS = 8  # at files that another program changes between a look and the step that follows it


@dataclass(frozen=True, slots=True)
class _Found:
    """The facts, and the file under the temporary: read under a lease if it may be unlinked."""

    facts: Facts
    there: Identity | None
    held: Held | None = None


def recover_job(entry: Entry, context: JobContext) -> None:
    """Raises FileError, OSError where that is not possible now; nothing is lost then."""
    context.archive.sweeper.sweep_beside(entry.watch, entry.path)
    try:
        folder_fd = open_folder(entry.root, os.path.dirname(entry.path))
    except (FileNotFoundError, Skipped):
        _end_job(entry, decide(Facts(entry.state, is_folder_missing=True)), context)
        return
    try:
        for _ in range(LOOKS):
            with _look(entry, folder_fd, context) as found:
                verdict = decide(found.facts)
                if _act(verdict, entry, folder_fd, found, context):
                    _end_job(entry, verdict, context)
                    return
    finally:
        os.close(folder_fd)
    raise Skipped(Reason.CHANGED, "another program changes the file again and again")


def temporary_of(entry: Entry) -> str:
    """The name of a job's temporary."""
    return entry.temporary or temporary_name(entry.job_id)


@contextmanager
def _look(entry: Entry, folder_fd: int, context: JobContext) -> Iterator[_Found]:
    named = identity_at(folder_fd, os.path.basename(entry.path))
    there = identity_at(folder_fd, temporary_of(entry))
    facts = Facts(
        entry.state,
        named=_content(entry, named),
        temporary=_content(entry, there),
        is_archived=entry.archive_path is not None,
    )
    if facts.temporary is not Content.ORIGINAL or not facts.is_archived:
        yield _Found(facts, there)
        return
    stop = context.stopping.is_set
    with ExitStack() as opened:
        try:
            held = opened.enter_context(
                reread.hold_at(folder_fd, temporary_of(entry), entry.full_path, stop)
            )
        except Skipped:  # a program has it open for writing, or wrote to it
            yield _Found(replace(facts, has_writer=True), there)
            return
        if held.reading.sha256 not in find_replaced(context.ledger, entry):
            facts = replace(facts, temporary=Content.OTHER)  # edited, with the old date
        yield _Found(facts, there, held)


def _content(entry: Entry, found: Identity | None) -> Content:
    """Without the device: its number may change with a boot."""
    if found is None:
        return Content.NOTHING
    if entry.staged is not None and found[1:4] == entry.staged[1:4]:
        return Content.OUTPUT
    return Content.ORIGINAL if found[1:4] == entry.identity[1:4] else Content.OTHER


def _act(
    verdict: Verdict, entry: Entry, folder_fd: int, found: _Found, context: JobContext
) -> bool:
    """Do what the verdict says in the folder. False: look and decide again."""
    temporary = temporary_of(entry)
    match verdict:
        case Verdict.COMPLETE | Verdict.REQUEUE:
            return True
        case Verdict.UNLINK_ORIGINAL_AND_COMPLETE | Verdict.UNLINK_ORIGINAL_AND_REQUEUE:
            return _unlink_original(entry, folder_fd, found, context)
        case Verdict.UNLINK_OUTPUT_AND_REQUEUE:
            return found.there is None or publish.discard(folder_fd, temporary, found.there)
        case Verdict.RESCUE_AND_COMPLETE | Verdict.RESCUE_AND_REQUEUE:
            commit.rescue(context, entry, folder_fd, temporary)
            return True
        case Verdict.SWAP_BACK:
            swap(folder_fd, temporary, os.path.basename(entry.path))
            fsync_folder(folder_fd)
            return False


def _unlink_original(entry: Entry, folder_fd: int, found: _Found, context: JobContext) -> bool:
    """False: another program changed it, or wants to write to it."""
    held = found.held
    if held is None or not held.settle(context.quiet_seconds, context.stopping.is_set):
        return False
    return publish.discard(folder_fd, temporary_of(entry), held.reading.identity)


def _end_job(entry: Entry, verdict: Verdict, context: JobContext) -> None:
    """Write to the ledger that the job is complete, or begins again."""
    if verdict.completes:
        with context.ledger.together():
            context.ledger.files.replace_older(entry.root, entry.path, entry.job_id)
            context.ledger.jobs.finish(entry.job_id, Outcome.COMPRESSED)
        return
    context.archive.remover.remove_link(entry.watch, entry.path, entry.identity)
    context.ledger.jobs.update(entry.job_id, state=JobState.QUEUED, temporary=None, staged=None)
