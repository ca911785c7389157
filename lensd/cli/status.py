"""`lensd status`: the queue, what waits and why, the totals."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any

import click

from lensd import __version__
from lensd.cli.options import config_option, load_config
from lensd.report import hashes as hash_table
from lensd.text import outcomes, printable, size, visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lensd.config.model import Config
    from lensd.store.ledger import Ledger
    from lensd.store.ledger.entry import Entry


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.option("--hashes", is_flag=True, help="sha256, AutoV2 and AutoV3 of originals and outputs.")
def status(config: str | None, as_json: bool, hashes: bool) -> int:
    """Show the queue, the running job, what waits and why, and the totals.

    Works with and without a running daemon, and changes nothing.

    \b
    lensd status              long lists are cut short at a terminal
    lensd status | less       all of it
    lensd status --json | jq '.totals'
    lensd status --hashes     by which hashes other programs know each
                              compressed file, before and after: as
                              tab-separated values in a pipe
    """
    from lensd.cli.views.status import board
    from lensd.cli.views.terminal import is_for_people, show
    from lensd.store.ledger import Ledger

    found = load_config(config)
    ledger = Ledger(found.state.path, __version__, readonly=True)
    try:
        report = _report(found, ledger, hashes=hashes)
    finally:
        ledger.close()
    if as_json:
        click.echo(json.dumps(report, indent=2))
    elif hashes:
        show(*(hash_table.blocks if is_for_people() else hash_table.tsv)(report["hashes"]))
    elif is_for_people():
        show(*board(report))
    else:
        show(*map(visible, _lines(report)))
    return 0


def _report(config: Config, ledger: Ledger, *, hashes: bool) -> dict[str, Any]:
    from lensd.store.locks import holder

    jobs = list(ledger.jobs.unfinished())
    problems = ledger.files.with_outcome("failed", "quarantined")
    report: dict[str, Any] = {
        "daemon": holder(config.state.path),
        "watch": [{"name": w.name, "path": w.path, "mode": w.settings.mode} for w in config.watch],
        "degraded": _degraded(config, ledger),
        "running": [_job(e) for e in jobs if e.state != "queued"],
        "queued": [_job(e) for e in jobs if e.state == "queued"],
        "waiting": [{**w, "path": printable(w["path"])} for w in ledger.state.waiting()],
        "problems": [_job(e) | {"reason": e.reason, "message": e.message} for e in problems],
        "paused": [printable(p) or "everything" for p in ledger.state.paused()],
        "held": ledger.state.get_meta("held"),
        "schedule": _schedule(config),
        "totals": ledger.files.totals(),
    }
    if hashes:
        report["hashes"] = [
            hash_table.of(e) | {"path": printable(e.full_path)}
            for e in ledger.files.with_outcome("compressed")
        ]
    return report


def _degraded(config: Config, ledger: Ledger) -> list[dict[str, Any]]:
    """What the running daemon says of its folders; one that was killed says nothing any more."""
    from lensd.store.locks import holder
    from lensd.watcher.root_monitor import META

    found = ledger.state.get_meta(META)
    if found is None or holder(config.state.path) is None:
        return []
    return [{**line, "path": printable(line["path"])} for line in json.loads(found)]


def _schedule(config: Config) -> dict[str, Any] | None:
    from lensd.config.schedule import is_open

    hours, now = config.worker.hours, dt.datetime.now().astimezone()
    return hours and {"window": config.worker.schedule, "open": is_open(hours, now)}


def _job(entry: Entry) -> dict[str, Any]:
    return {
        "job_id": entry.job_id,
        "path": printable(entry.full_path),
        "watch": entry.watch,
        "bytes": entry.identity.size,
        "attempts": entry.attempts,
    }


def _lines(report: dict[str, Any]) -> Iterator[str]:
    pid = report["daemon"]
    yield f"daemon: {f'running, process {pid}' if pid is not None else 'not running'}"
    for watch in report["watch"]:
        yield f"watch {watch['name']}: {watch['path']}, mode {watch['mode']}"
    yield from (f"paused: {path}; `lensd resume` goes on" for path in report["paused"])
    if report["schedule"] and not report["schedule"]["open"]:
        yield f"schedule: jobs are begun in {report['schedule']['window']} only"
    if report["held"]:
        yield f"held up: {report['held']}"
    for title in ("degraded", "running", "queued", "waiting", "problems"):
        for item in report[title]:
            why = item.get("message") or item.get("reason")
            yield f"{title}: {item['path']}{f': {why}' if why else ''}"
    totals = report["totals"]
    yield f"files: {outcomes(totals['outcomes']) or 'none yet'}"
    yield (
        f"bytes: {size(totals['saved_in_folders'])} saved in the folders, "
        f"{size(totals['held_by_archive'])} held by the archive, net {size(totals['net'])}"
    )
