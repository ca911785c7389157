"""`lensd report`: show what lensd did, from the ledger or from logs alone."""

from __future__ import annotations

import datetime as dt
import sys
from typing import TYPE_CHECKING

import click

from lensd import __version__
from lensd.cli.options import config_option, load_config
from lensd.errors import UsageError

if TYPE_CHECKING:
    from lensd.report.documents import Report
    from lensd.report.history import History
    from lensd.report.period import Period


@click.command()
@config_option
@click.option(
    "--since", metavar="TIME", help="The start: 12h, 7d, 2w (ago), a day, or an ISO time."
)
@click.option("--until", metavar="TIME", help="The end, in the same forms; a day is included.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV for spreadsheets, one row per file.")
@click.option("--html", metavar="OUT", help="Write one page for a browser; it needs no network.")
@click.option("--all", "everything", is_flag=True, help="At a terminal, show complete lists.")
@click.option("--force", is_flag=True, help="With --html: overwrite an existing page.")
@click.option(
    "--log",
    "logs",
    multiple=True,
    metavar="FILE...",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="Read logs, not the ledger; they may be rotated and gzipped. - is stdin.",
)
@click.option(
    "--manifest",
    metavar="M",
    type=click.Path(dir_okay=False),
    help="Read the manifest of `lensd batch`, not the ledger.",
)
@click.argument(
    "more_logs",
    nargs=-1,
    metavar="",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
)
def report(
    config: str | None,
    since: str | None,
    until: str | None,
    as_json: bool,
    as_csv: bool,
    html: str | None,
    everything: bool,
    force: bool,
    logs: tuple[str, ...],
    manifest: str | None,
    more_logs: tuple[str, ...],
) -> None:
    """Show what was saved, what failed and why, and the errors of the outputs.

    Works with and without a running daemon, and changes nothing.

    \b
    lensd report --since 7d            the last week
    lensd report --html report.html    a page with charts and all files
    lensd report --log lensd.log*      without the ledger, on any machine
    journalctl -u lensd -o cat | lensd report --log -
    lensd report --manifest lensd-manifest.jsonl    of `lensd batch`
    """
    if as_json + as_csv + (html is not None) > 1:
        raise UsageError("--json, --csv and --html exclude each other; choose one")
    _check_sources(config, manifest, logs, more_logs)
    if html is not None:
        from lensd.cli.staging import require_free

        require_free("", html, force=force)
    from lensd.report.local_zone import LOCAL
    from lensd.report.period import period

    now = dt.datetime.now(LOCAL)
    wanted = period(since, until, now)
    history = _read_history(config, manifest, (*logs, *more_logs), drawn=html is not None)
    if as_csv:
        from lensd.report import sheet

        sheet.write(history.records.select(wanted), sys.stdout, now.tzinfo)
    elif html is not None:
        _write_page(history, wanted, now, html, force=force)
    else:
        from lensd.report.summary import summarize

        document = summarize(history, wanted, now, __version__)
        _print(document, history, as_json=as_json, everything=everything)


def _check_sources(
    config: str | None, manifest: str | None, logs: tuple[str, ...], more_logs: tuple[str, ...]
) -> None:
    """Raises UsageError."""
    if manifest is not None and (logs or config is not None):
        raise UsageError("--manifest excludes -c and --log; give only one of them")
    if more_logs and not logs:
        raise UsageError(f"unexpected argument {more_logs[0]}; name logs after --log")
    if logs and config is not None:
        raise UsageError("-c reads the ledger and --log reads logs; give only one of them")


def _read_history(
    config: str | None, manifest: str | None, logs: tuple[str, ...], *, drawn: bool
) -> History:
    """From the logs or the manifest, if given: they need neither a configuration nor a ledger."""
    if manifest is not None:
        from lensd.report import from_manifest

        return from_manifest.history(manifest, drawn=drawn)
    if logs:
        from lensd.report import from_logs

        return from_logs.history(logs, drawn=drawn)
    from lensd.report import from_ledger
    from lensd.store.ledger import Ledger

    found = load_config(config)
    with Ledger.read_only(found.state.path) as ledger:
        history = from_ledger.history(ledger, found.state.path, drawn=drawn)
    if drawn:
        from lensd.report.disks import find_disks

        history.disks = find_disks(found)
    return history


def _write_page(
    history: History, wanted: Period, now: dt.datetime, target: str, *, force: bool
) -> None:
    from lensd.cli.staging import write_text
    from lensd.report.page import render

    write_text(target, render.html(history, wanted, now, __version__), force=force)
    click.echo(f"wrote {target}; open it in a browser")


def _print(document: Report, history: History, *, as_json: bool, everything: bool) -> None:
    if as_json:
        from lensd.report.json_text import json_parts

        sys.stdout.writelines(json_parts(document))
        click.echo()
        return
    from lensd.cli.views.file_lines import ShortPaths
    from lensd.cli.views.report import show
    from lensd.cli.views.terminal import is_for_people

    roots = history.records.roots() if is_for_people() else {}
    show(document, ShortPaths(roots), everything=everything)
