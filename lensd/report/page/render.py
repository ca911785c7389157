"""Renders a history as one HTML page.

The page's Content-Security-Policy allows only the page's own style and scripts, by their hashes, so
that a browser runs no other script and makes no network request.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import re
from collections.abc import Callable
from importlib.resources import files

import msgspec
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from lensd.report.documents import Ratio
from lensd.report.history import History
from lensd.report.page.packing import pack
from lensd.report.period import Period
from lensd.report.summary import FAILED, summarize
from lensd.report.sums import local_time
from lensd.text import outcomes, size, visible, visible_lines

STYLES = ("vendor/uPlot.min.css", "page.css")
LIBRARY = ("vendor/uPlot.iife.min.js",)
SCRIPTS = ("format.js", "charts.js", "file.js", "table.js", "page.js")
NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"
SHOWN = 3  # files that need attention; the others are folded away
MUCH = 3.0  # from this ratio on, "smaller" is coloured


def html(history: History, period: Period, now: dt.datetime, version: str) -> str:
    """The text of the page, for a file in UTF-8."""
    document = summarize(history, period, now, version)
    records = list(history.records.select(period))
    style, library, script = _read(STYLES), _read(LIBRARY), _read(SCRIPTS)
    return (
        environment(now.tzinfo)
        .get_template("page.html")
        .render(
            report=document,
            failed=[r for r in reversed(records) if r.outcome in FAILED],
            shown={r.path: r.shown for r in records},
            disks=history.disks,
            SHOWN=SHOWN,
            MUCH=MUCH,
            policy=_policy(style, library, script),
            style=Markup(style),  # noqa: S704  the package's own files
            library=Markup(library),  # noqa: S704
            script=Markup(script),  # noqa: S704
            data=pack(records, document.days),
            before_after=_bars(document.ratios),
        )
    )


def environment(zone: dt.tzinfo | None, *packages: str) -> Environment:
    """It escapes every value; a missing value is an error. `packages` have templates as well."""
    loaders = [PackageLoader(package, "") for package in (*packages, "lensd.report.page")]
    environment = Environment(
        loader=ChoiceLoader(loaders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., object]] = {
        "size": lambda count: size(count).replace(" ", NO_BREAK_SPACE),
        "outcomes": outcomes,
        "visible": visible,
        "lines": visible_lines,
        "percent": lambda share: f"{100 * share:.2f}{NO_BREAK_SPACE}%",
        "times": lambda ratio: f"{ratio:.1f}",
        "grouped": lambda number: f"{number:,}",
        "minute": _minute,
        "local": lambda when: _minute(local_time(when, zone)),
        "breakable": _breakable,
    }
    environment.filters |= filters
    return environment


def _minute(moment: str) -> str:
    return moment[:16].replace("T", " ")


def _breakable(name: str) -> Markup:
    """Lets a long name wrap after the characters that join its words."""
    parts = re.split(r"(?<=[_\-. /])", name)
    return Markup("<wbr>").join(map(escape, parts))


def _read(names: tuple[str, ...]) -> str:
    folder = files("lensd.report.page")
    return "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names)


def _policy(style: str, *scripts: str) -> str:
    allowed = " ".join(_hash(script) for script in scripts)
    return (
        f"default-src 'none'; script-src {allowed}; style-src {_hash(style)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _bars(ratios: list[Ratio]) -> list[dict[str, object]]:
    """The ratios with the lengths of their bars, in percent of the longest bar."""
    longest = max((r.bytes_in for r in ratios), default=1)
    return [
        {
            **msgspec.structs.asdict(r),
            "before": 100 * r.bytes_in / longest,
            "after": 100 * r.bytes_out / longest,
        }
        for r in ratios
    ]
