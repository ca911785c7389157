"""Prints `lensd status` at a terminal: facts, and lists that fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.text import Text

from lensd.cli.views.file_lines import ShortPaths, describe_rest, shorten, wrap
from lensd.cli.views.status import (
    Item,
    describe_cause,
    describe_daemon,
    describe_filesystem,
    describe_net,
)
from lensd.cli.views.terminal import console
from lensd.config.model import Config
from lensd.report.documents import Job, Status
from lensd.text import outcomes, size, visible

SHOWN = 10  # items of each list; --all, a pipe and --json have all
MORE = "`lensd status --all` shows them"


def board(status: Status, config: Config, *, everything: bool) -> Iterator[RenderableType]:
    """Lines for a terminal; long lists are cut short without `everything`."""
    width = console().width
    paths = ShortPaths.of(config.watch)
    for name, text in _facts(status, paths):
        first, *more = wrap(f"{name:<12}{visible(text)}", width, " " * 12)
        yield Text.assemble((first[:12], "bold"), first[12:])
        yield from more
    for title, items in (
        ("degraded folders", status.degraded),
        ("failed or quarantined", status.problems),
        ("running", status.running),
        ("not complete yet", status.waiting),
        ("queued", status.queued),
        ("skipped or kept", status.uncompressed),
    ):
        if items:
            yield ""
            yield Text(f"{title}: {len(items):,}", style="bold")
            found = [_describe(item, paths, width) for item in _first(items, everything)]
            yield from found
            yield from describe_rest(len(items) - len(found), MORE)


def _first(items: Sequence[Item], everything: bool) -> Sequence[Item]:
    return items if everything else items[:SHOWN]


def _facts(status: Status, paths: ShortPaths) -> Iterator[tuple[str, str]]:
    yield "daemon", describe_daemon(status)
    for watch in status.watch:
        yield "watch", f"{watch.path} ({watch.name}), mode {watch.mode}"
    for found in status.filesystems:
        yield "filesystem", describe_filesystem(found)
    for path in status.paused:
        yield "paused", f"{paths.path(path)}; `lensd resume` ends the pause"
    if status.schedule and not status.schedule.open:
        yield "schedule", f"jobs start only in {status.schedule.window}"
    if status.held:
        yield "waits", f"for a disk: {status.held}"
    totals = status.totals
    yield "files", outcomes(totals.outcomes) or "none yet"
    yield "saved", f"{size(totals.saved_in_folders)} in the folders"
    yield "archive", f"{size(totals.held_by_archive)} of originals{describe_net(totals.net)}"


def _describe(item: Item, paths: ShortPaths, width: int) -> str:
    """A file with its cause, or else its size. The path is one line."""
    cause = describe_cause(item)
    amount = f"{size(item.bytes):>9}  " if isinstance(item, Job) and not cause else "  "
    lines = [f"{amount}{shorten(paths.path(item.path), width - len(amount))}"]
    if cause:
        lines += wrap(f"      {paths.text(visible(cause))}", width, " " * 6)
    return "\n".join(lines)
