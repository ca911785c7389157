"""Prints `lensd status` at a terminal: a table of facts, and lists that fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lensd.cli.views.status import Item, describe_cause, describe_daemon, describe_filesystem
from lensd.report.documents import Job, Status
from lensd.text import outcomes, size, visible

SHOWN = 10  # items of each list; a pipe and --json have all


def board(status: Status) -> Iterator[RenderableType]:
    """Lines and tables for a terminal; long lists are cut short."""
    yield _facts_table(status)
    for title, items in (
        ("degraded folders", status.degraded),
        ("failed or quarantined", status.problems),
        ("running", status.running),
        ("not complete yet", status.waiting),
        ("queued", status.queued),
    ):
        if items:
            yield ""
            yield Text(f"{title}: {len(items):,}", style="bold")
            yield from _list_items(items[:SHOWN])
            if len(items) > SHOWN:
                yield f"  and {len(items) - SHOWN:,} more; `lensd status | less` shows all"


def _facts_table(status: Status) -> Table:
    result = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    result.add_column(style="bold", no_wrap=True)
    result.add_column(overflow="fold")
    for name, text in _facts(status):
        result.add_row(name, visible(text))
    return result


def _facts(status: Status) -> Iterator[tuple[str, str]]:
    yield "daemon", describe_daemon(status)
    for watch in status.watch:
        yield "watch", f"{watch.path} ({watch.name}), mode {watch.mode}"
    for found in status.filesystems:
        yield "filesystem", describe_filesystem(found)
    for path in status.paused:
        yield "paused", f"{path}; `lensd resume` ends the pause"
    if status.schedule and not status.schedule.open:
        yield "schedule", f"jobs start only in {status.schedule.window}"
    if status.held:
        yield "waiting for a disk", status.held
    totals = status.totals
    yield "files", outcomes(totals.outcomes) or "none yet"
    yield "saved", f"{size(totals.saved_in_folders)} in the folders"
    yield "archive", f"{size(totals.held_by_archive)} of originals, net {size(totals.net)}"


def _list_items(items: Sequence[Item]) -> Iterator[RenderableType]:
    """Files with their cause, or else their size. Each path is one line, so it can be copied."""
    for item in items:
        cause = describe_cause(item)
        amount = f"{size(item.bytes):>9}  " if isinstance(item, Job) and not cause else "  "
        yield f"{amount}{visible(item.path)}"
        if cause:
            yield Padding(Text(visible(cause)), (0, 0, 0, 6))
