"""What `lensd status` shows a person: the standing in lines, and lists that fit a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lensd.text import outcomes, size, visible

SHOWN = 10  # of each list; a pipe and --json have all

# list of the report: its title
LISTS = {
    "degraded": "folders that are away",
    "problems": "failed, or set aside",
    "running": "under way",
    "waiting": "not whole yet",
    "queued": "queued",
}


def board(report: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Lines and tables from what `lensd status --json` prints."""
    yield _standing(report)
    for name, title in LISTS.items():
        if items := report[name]:
            yield ""
            yield Text(f"{title}: {len(items):,}", style="bold")
            yield from _list(items[:SHOWN])
            if len(items) > SHOWN:
                yield f"  and {len(items) - SHOWN:,} more; `lensd status | less` has all"


def _standing(report: Mapping[str, Any]) -> Table:
    found = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    found.add_column(style="bold", no_wrap=True)
    found.add_column(overflow="fold")
    for name, text in _facts(report):
        found.add_row(name, visible(text))
    return found


def _facts(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    pid, totals = report["daemon"], report["totals"]
    yield "daemon", "not running" if pid is None else f"running, process {pid}"
    for watch in report["watch"]:
        yield "watch", f"{watch['path']} ({watch['name']}), mode {watch['mode']}"
    for path in report["paused"]:
        yield "paused", f"{path}; `lensd resume` goes on"
    if report["schedule"] and not report["schedule"]["open"]:
        yield "schedule", f"jobs are begun in {report['schedule']['window']} only"
    if report["held"]:
        yield "held up", report["held"]
    yield "files", outcomes(totals["outcomes"]) or "none yet"
    yield "saved", f"{size(totals['saved_in_folders'])} in the folders"
    yield "held", f"{size(totals['held_by_archive'])} by the archive, net {size(totals['net'])}"


def _list(items: Sequence[Mapping[str, Any]]) -> Iterator[RenderableType]:
    """Files with their reason, or else with their size. A path is a line, so that it is copied."""
    for item in items:
        why = item.get("message") or item.get("reason")
        amount = f"{size(item['bytes']):>9}  " if "bytes" in item and not why else "  "
        yield f"{amount}{visible(item['path'])}"
        if why:
            yield Padding(Text(visible(why)), (0, 0, 0, 6))
