"""Prints `lensd status` into a pipe: one fact per line."""

from __future__ import annotations

from collections.abc import Iterator

from lensd.report.documents import Degraded, Filesystem, Job, Problem, Status, Waiting
from lensd.store.probe import Proof
from lensd.text import outcomes, size

Item = Degraded | Job | Waiting


def lines(status: Status) -> Iterator[str]:
    """One line per fact."""
    yield f"daemon: {describe_daemon(status)}"
    for watch in status.watch:
        yield f"watch {watch.name}: {watch.path}, mode {watch.mode}"
    yield from (f"filesystem {describe_filesystem(f)}" for f in status.filesystems)
    yield from (f"paused: {path}; `lensd resume` ends the pause" for path in status.paused)
    if status.schedule and not status.schedule.open:
        yield f"schedule: jobs start only in {status.schedule.window}"
    if status.held:
        yield f"waiting for a disk: {status.held}"
    for title, items in (
        ("degraded", status.degraded),
        ("running", status.running),
        ("queued", status.queued),
        ("waiting", status.waiting),
        ("problems", status.problems),
        ("not compressed", status.uncompressed),
    ):
        for item in items:
            cause = describe_cause(item)
            yield f"{title}: {item.path}{f': {cause}' if cause else ''}"
    totals = status.totals
    yield f"files: {outcomes(totals.outcomes) or 'none yet'}"
    yield (
        f"bytes: {size(totals.saved_in_folders)} saved in the folders, "
        f"{size(totals.held_by_archive)} held by the archive{describe_net(totals.net)}"
    )


def describe_net(net: int) -> str:
    """What folders and archive need together, compared with before lensd."""
    if not net:
        return ""
    return f"; with them, {size(abs(net))} {'less' if net > 0 else 'more'} than before lensd"


def describe_daemon(status: Status) -> str:
    """Whether a daemon runs."""
    return "not running" if status.daemon is None else f"running, process {status.daemon}"


def describe_filesystem(found: Filesystem | Proof) -> str:
    """What a filesystem is proven to do, as far as it decides what lensd does."""
    head = f"{found.point}: {found.kind}"
    if found.unknown_because is not None:
        return f"{head}, not proven yet ({found.unknown_because})"
    way = {
        "exchange": "exchanges names",
        "link": "no exchange of names: outputs replace originals by link and rename",
        "rename": "no exchange of names, no links: outputs replace originals by rename",
        None: "not proven yet",
    }[found.commits_by if isinstance(found, Filesystem) else found.way]
    leases = (
        "leases work"
        if found.enforces_leases
        else "leases do not work: lensd waits longer, and copies originals"
    )
    return f"{head}, {way}; {leases}"


def describe_cause(item: Item) -> str | None:
    """Why an item is in its state; None for a running or queued job."""
    if isinstance(item, Problem):
        return f"{item.outcome} ({item.reason}): {item.message}"
    if isinstance(item, Degraded):
        return item.message
    return item.reason if isinstance(item, Waiting) else None
