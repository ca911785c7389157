"""What the daemon does now: the part of the page that changes all the time."""

from __future__ import annotations

import datetime as dt
import time
from typing import NamedTuple

from lensd.config.schedule import is_open
from lensd.daemon.control_messages import Step
from lensd.daemon.progress import STAGES
from lensd.errors import Outcome
from lensd.report.disks import find_disks
from lensd.report.history import Disk
from lensd.store.ledger import Ledger
from lensd.store.ledger.catalog import Catalog, Query
from lensd.store.ledger.entry import Entry
from lensd.store.ledger.files import Totals
from lensd.text import visible
from lensd.web.shown import Shortener, shown_path
from lensd.web.source import Daemon, Source

LISTED = 3  # of each list
DISK_SECONDS = 10.0  # between two looks at the free space


class Item(NamedTuple):
    """A file of a list. `link`: of its own page, "" without one; `tag`: a word before the text."""

    path: str
    link: str = ""
    text: str = ""
    tag: str = ""
    when: float | None = None


class Running(NamedTuple):
    """A job under way. `share`: of its work, None: not known."""

    path: str
    link: str
    bytes: int
    stage: str
    share: float | None


class Section(NamedTuple):
    """The first files of a list, and how many it has."""

    items: list[Item]
    total: int


class Now(NamedTuple):
    """The values of the template `_now.html`."""

    daemon: Daemon
    running: list[Running]
    queued: Section
    waiting: Section
    problems: Section
    degraded: list[Item]
    paused: list[str]
    is_paused: bool  # everything
    held: str | None
    closed_until: str | None  # the hours in which jobs start, while none may
    totals: Totals
    sizes: tuple[int, int]
    disks: list[Disk]


class Watcher:
    """Builds `Now`. One thread at a time uses it."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._shortener = Shortener(source.config)
        self._disks: list[Disk] = []
        self._measured = -DISK_SECONDS
        self._totals: tuple[int, Totals, tuple[int, int]] | None = None

    def look(self) -> Now | None:
        """None: there is no ledger."""
        source = self._source
        daemon = source.ask_daemon()
        source.refresh()
        ledger, catalog = source.ledger, source.catalog
        if ledger is None or catalog is None:
            return None
        totals, sizes = self._count(ledger, catalog)
        paused = ledger.state.paused()
        held, running = ledger.state.disk_backoff.get(), ledger.jobs.under_way()
        return Now(
            daemon=daemon,
            running=[_describe_running(e, daemon.steps.get(e.job_id)) for e in running],
            queued=self._list_queued(ledger, len(running)),
            waiting=self._list_waiting(ledger),
            problems=self._list_problems(ledger, catalog),
            degraded=self._list_degraded(ledger) if daemon.runs else [],
            paused=[self._shortener.shorten(path) for path in paused if path],
            is_paused="" in paused,
            held=None if held is None else self._shortener.shorten(held),
            closed_until=_describe_schedule(source),
            totals=totals,
            sizes=sizes,
            disks=self._measure_disks(),
        )

    def _count(self, ledger: Ledger, catalog: Catalog) -> tuple[Totals, tuple[int, int]]:
        version = self._source.version
        if self._totals is None or self._totals[0] != version:
            before, after = catalog.sizes()
            displaced = ledger.files.displaced()
            before -= sum(output.bytes_in for output in displaced)
            after -= sum(output.bytes_out for output in displaced)
            self._totals = version, ledger.files.totals(), (before, after)
        return self._totals[1:]

    def _measure_disks(self) -> list[Disk]:
        now = time.monotonic()
        if now - self._measured >= DISK_SECONDS:
            self._disks, self._measured = find_disks(self._source.config), now
        return self._disks

    def _list_queued(self, ledger: Ledger, under_way: int) -> Section:
        items = [
            Item(shown_path(e), link_of(e.job_id), self._shortener.shorten(_describe_delay(e)))
            for e in ledger.jobs.queued(LISTED)
        ]
        return Section(items, max(0, ledger.jobs.count_unfinished() - under_way))

    def _list_waiting(self, ledger: Ledger) -> Section:
        files = ledger.state.waiting()
        items = [
            Item(self._shortener.shorten(f.path), text=self._shortener.shorten(f.reason))
            for f in files[:LISTED]
        ]
        return Section(items, len(files))

    def _list_problems(self, ledger: Ledger, catalog: Catalog) -> Section:
        items, count = [], 0
        for outcome in (Outcome.FAILED, Outcome.QUARANTINED):
            rows, found = catalog.page(Query(outcome=outcome), LISTED)
            count += found
            items += [e for row in rows if (e := ledger.files.by_job(row.job_id)) is not None]
        items.sort(key=lambda e: -e.updated)
        return Section([self._describe_problem(e) for e in items[:LISTED]], count)

    def _describe_problem(self, entry: Entry) -> Item:
        return Item(
            shown_path(entry),
            link_of(entry.job_id),
            self._shortener.shorten(entry.message or ""),
            visible(entry.reason or entry.outcome or ""),
            entry.updated,
        )

    def _list_degraded(self, ledger: Ledger) -> list[Item]:
        return [
            Item(visible(root.watch), "", self._shortener.shorten(root.message), root.reason)
            for root in ledger.state.degraded.get() or ()
        ]


def link_of(job_id: str) -> str:
    return f"/files/{job_id}"


def _describe_running(entry: Entry, step: Step | None) -> Running:
    path, link = shown_path(entry), link_of(entry.job_id)
    if step is None or not step.of:
        return Running(path, link, entry.identity.size, "begins", None)
    begin, end = STAGES.get(step.stage, (0.0, 1.0))
    stage = f"{step.stage}, {step.done} of {step.of} modules"
    share = begin + (end - begin) * step.done / step.of
    return Running(path, link, entry.identity.size, stage, share)


def _describe_delay(entry: Entry) -> str:
    """Why a queued job does not start now; empty for one that only waits for its turn."""
    if entry.not_before is None or entry.not_before <= time.time():
        return ""
    moment = dt.datetime.fromtimestamp(entry.not_before).astimezone()
    return f"again at {moment:%H:%M}: {entry.message or ''}"


def _describe_schedule(source: Source) -> str | None:
    worker = source.config.worker
    if worker.hours is None or is_open(worker.hours, dt.datetime.now().astimezone()):
        return None
    return worker.schedule
