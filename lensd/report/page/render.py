"""A history -> the HTML of one page that needs nothing else.

The page's own style and scripts are named by their hashes in its Content-Security-Policy, so that
a browser runs nothing else, and asks no network for anything.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
from importlib.resources import files

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lensd.report.documents import Ratio
from lensd.report.page.packing import packed
from lensd.report.period import Period
from lensd.report.record import History
from lensd.report.summary import chosen, summarize
from lensd.text import outcomes, size, visible, visible_lines

STYLES = ("vendor/uPlot.min.css", "page.css")
LIBRARY = ("vendor/uPlot.iife.min.js",)
SCRIPTS = ("format.js", "charts.js", "table.js", "page.js")


def html(history: History, period: Period, now: dt.datetime, version: str) -> str:
    """The page's text, to be written as UTF-8."""
    document = summarize(history, period, now, version)
    style, library, script = _text(STYLES), _text(LIBRARY), _text(SCRIPTS)
    return (
        _environment()
        .get_template("page.html")
        .render(
            report=document,
            policy=_policy(style, library, script),
            style=Markup(style),  # noqa: S704  the package's own files
            library=Markup(library),  # noqa: S704
            script=Markup(script),  # noqa: S704
            data=packed(chosen(history.records, period), document.days),
            before_after=_families(document.ratios),
        )
    )


def _environment() -> Environment:
    """Every value is escaped, a missing one is an error."""
    environment = Environment(
        loader=PackageLoader("lensd.report.page", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "size": size,
        "outcomes": outcomes,
        "visible": visible,
        "lines": visible_lines,
        "percent": lambda share: f"{100 * share:.2f} %",
        "times": lambda ratio: f"{ratio:.1f}",
        "grouped": lambda number: f"{number:,}",
        "minute": lambda moment: moment[:16].replace("T", " "),
    }
    return environment


def _text(names: tuple[str, ...]) -> str:
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


def _families(ratios: list[Ratio]) -> list[dict[str, object]]:
    """Bars in percent of the longest."""
    longest = max((r.bytes_in for r in ratios), default=1)
    return [
        {
            **msgspec.structs.asdict(r),
            "before": 100 * r.bytes_in / longest,
            "after": 100 * r.bytes_out / longest,
        }
        for r in ratios
    ]
