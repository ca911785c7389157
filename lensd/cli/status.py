"""`lensd status`: show the queue, files that wait, problems and totals."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click
import msgspec

from lensd.cli.options import config_option, load_config
from lensd.store.ledger import JobState, Outcome
from lensd.text import printable, visible

if TYPE_CHECKING:
    from lensd.config.model import Config
    from lensd.report.documents import Degraded, Job, Problem, Schedule, Status, Waiting
    from lensd.store.ledger import Ledger
    from lensd.store.ledger.entry import Entry
    from lensd.store.ledger.state import WaitingFile


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--hashes", is_flag=True, help="Show the hashes of originals and outputs.")
def status(config: str | None, as_json: bool, hashes: bool) -> int:
    """Show the queue, the running job, files that wait, problems and totals.

    Works with and without a running daemon, and changes nothing.

    \b
    lensd status              at a terminal, long lists are cut short
    lensd status | less       complete lists
    lensd status --json | jq '.totals'
    lensd status --hashes     the hashes by which other programs know each
                              compressed file and its original; in a pipe
                              as tab-separated values
    """
    from lensd.cli.views.terminal import is_for_people, show
    from lensd.report import hashes as hash_rows
    from lensd.store.ledger import Ledger

    found = load_config(config)
    with Ledger.read_only(found.state.path) as ledger:
        document = _build_document(found, ledger)
        if hashes:
            document.hashes = [
                hash_rows.of_entry(e) for e in ledger.files.with_outcome(Outcome.COMPRESSED)
            ]
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(document), indent=2))
    elif isinstance(document.hashes, list):
        show(*(hash_rows.blocks if is_for_people() else hash_rows.tsv)(document.hashes))
    elif is_for_people():
        from lensd.cli.views.status_board import board

        show(*board(document))
    else:
        from lensd.cli.views.status import lines

        show(*map(visible, lines(document)))
    return 0


def _build_document(config: Config, ledger: Ledger) -> Status:
    from lensd.report.documents import Status, Totals, WatchedFolder
    from lensd.store.locks import holder

    jobs = list(ledger.jobs.unfinished())
    return Status(
        daemon=holder(config.state.path),
        watch=[WatchedFolder(name=w.name, path=w.path, mode=w.settings.mode) for w in config.watch],
        degraded=_degraded(config, ledger),
        running=[_job(e) for e in jobs if e.state != JobState.QUEUED],
        queued=[_job(e) for e in jobs if e.state == JobState.QUEUED],
        waiting=[_waiting(w) for w in ledger.state.waiting()],
        problems=[
            _problem(e) for e in ledger.files.with_outcome(Outcome.FAILED, Outcome.QUARANTINED)
        ],
        paused=[printable(p) or "everything" for p in ledger.state.paused()],
        held=ledger.state.disk_backoff.get(),
        schedule=_schedule(config),
        totals=Totals(**asdict(ledger.files.totals())),
    )


def _degraded(config: Config, ledger: Ledger) -> list[Degraded]:
    """As the running daemon reports them; what a killed daemon reported is out of date."""
    from lensd.report.documents import Degraded
    from lensd.store.locks import holder

    if holder(config.state.path) is None:
        return []
    return [
        Degraded(**asdict(root) | {"path": printable(root.path)})
        for root in ledger.state.degraded.get() or ()
    ]


def _waiting(file: WaitingFile) -> Waiting:
    from lensd.report.documents import Waiting

    return Waiting(**asdict(file) | {"path": printable(file.path)})


def _schedule(config: Config) -> Schedule | None:
    from lensd.config.schedule import is_open
    from lensd.report.documents import Schedule

    hours, window = config.worker.hours, config.worker.schedule
    if hours is None or window is None:
        return None
    return Schedule(window=window, open=is_open(hours, dt.datetime.now().astimezone()))


def _job(entry: Entry) -> Job:
    from lensd.report.documents import Job

    return Job(
        job_id=entry.job_id,
        path=printable(entry.full_path),
        watch=entry.watch,
        bytes=entry.identity.size,
        attempts=entry.attempts,
    )


def _problem(entry: Entry) -> Problem:
    from lensd.report.documents import Problem

    return Problem(
        **msgspec.structs.asdict(_job(entry)),
        reason=entry.reason or "",
        message=entry.message or "",
    )
