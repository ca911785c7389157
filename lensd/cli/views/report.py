"""The tables that `lensd report` prints."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice

from rich.console import RenderableType
from rich.text import Text

from lensd.cli.views import terminal
from lensd.cli.views.file_lines import ShortPaths, describe_rest, shorten, wrap
from lensd.cli.views.status import describe_net
from lensd.cli.views.terminal import table
from lensd.report.documents import (
    Distribution,
    FromLedger,
    FromLogs,
    FromManifest,
    Ratio,
    ReasonCount,
    Report,
    SlowJob,
    Span,
    Unchanged,
)
from lensd.text import outcomes, size, visible, visible_lines

NARROW = 72  # columns; a terminal with fewer has no room for the median
SHOWN = 10  # files of each list; --all, a pipe and --json have all


def show(document: Report, paths: ShortPaths, *, everything: bool) -> None:
    """Print a report as tables, without its empty sections."""
    shown = SHOWN if terminal.is_for_people() and not everything else None
    terminal.show_all(_sections(document, paths, shown), folds=True)
    _print_log_faults(document.source)
    if document.unknown:
        terminal.console(stderr=True).print(
            f"lensd: logs do not contain: {'; '.join(document.unknown)}"
        )


def _sections(document: Report, paths: ShortPaths, shown: int | None) -> Iterator[RenderableType]:
    yield _describe_period(document.period)
    yield f"files: {outcomes(document.outcomes) or 'none'}"
    total = document.bytes
    if total.after:
        ratio = total.before / total.after
        sizes = f"{size(total.before)} -> {size(total.after)}"
        yield f"compressed: {sizes}, {ratio:.1f} times smaller"
    if not isinstance(document.source, FromManifest):
        yield (
            f"bytes: {size(total.saved_in_folders)} saved in the folders, "
            f"{size(total.held_by_archive)} held by the archive{describe_net(total.net)}"
        )
    if document.ratios:
        yield from _titled("By family and mode", [_ratios(document.ratios)])
    if document.delta_error:
        yield from _titled("Delta error of the files", [_errors(document.delta_error)])
    if document.reasons:
        yield from _titled("Not compressed", [_reasons(document.reasons)])
    if document.failures:
        yield from _titled("Failures", _files(document.failures, paths, shown))
    if document.uncompressed:
        yield from _titled("Skipped and kept", _files(document.uncompressed, paths, shown))
    if document.slowest:
        yield from _titled(
            "Slowest jobs, without waiting time", [_slowest(document.slowest, paths)]
        )
    if document.hashes:
        yield Text("\n--json and --csv contain the hashes of every file", style="dim")


def _titled(title: str, parts: Iterable[RenderableType]) -> Iterator[RenderableType]:
    yield Text(f"\n{title}", style="bold")
    yield from parts


def _describe_period(period: Span) -> str:
    if period.first is None or period.last is None:
        return "no files in this period" if period.since or period.until else "no files yet"
    return f"from {_to_minute(period.first)} to {_to_minute(period.last)}"


def _to_minute(moment: str) -> str:
    return moment[:16].replace("T", " ")


def _ratios(rows: Sequence[Ratio]) -> RenderableType:
    columns: dict[str, Callable[[Ratio], str]] = {
        "files": lambda r: str(r.files),
        "before": lambda r: size(r.bytes_in),
        "after": lambda r: size(r.bytes_out),
        "smaller": lambda r: f"{r.ratio:.1f}x",
        "median": lambda r: f"{r.ratio_median:.1f}x",
        "error": lambda r: _percent(r.delta_error_median),
    }
    if terminal.console().width < NARROW:
        del columns["median"]
    result = table("family", "mode", *columns, numbers=tuple(columns))
    for r in rows:
        result.add_row(visible(r.family), visible(r.mode), *(cell(r) for cell in columns.values()))
    return result


def _errors(errors: Distribution) -> RenderableType:
    names = {"min": "min", "p10": "10 %", "p50": "median", "p90": "90 %", "p99": "99 %"}
    names["max"] = "max"
    result = table(*names.values(), numbers=tuple(names.values()))
    result.add_row(*(_percent(getattr(errors, key)) for key in names))
    return result


def _percent(error: float | None) -> str:
    return "-" if error is None else f"{100 * error:.2f} %"


def _reasons(rows: Sequence[ReasonCount]) -> RenderableType:
    result = table("files", "outcome", "reason", "meaning", numbers=("files",))
    for r in rows:
        result.add_row(f"{r.files:,}", r.outcome, visible(r.reason), r.meaning)
    return result


def _files(
    rows: Collection[Unchanged], paths: ShortPaths, shown: int | None
) -> Iterator[RenderableType]:
    """The first files with the reason and the remedy."""
    width = terminal.console().width
    for r in islice(rows, shown):
        reason = f": {visible(r.reason or r.outcome)}"
        yield f"{shorten(paths.path(r.path), width - len(reason))}{reason}"
        for line in visible_lines(paths.text(r.message or "")).split("\n"):
            yield from wrap(f"  {line}", width, "  ")
    if shown is not None:
        yield from describe_rest(len(rows) - shown, "`lensd report --all` shows them")


def _slowest(rows: Sequence[SlowJob], paths: ShortPaths) -> RenderableType:
    numbers = ("seconds", "before")
    result = table(*numbers, "file", numbers=numbers)
    space = terminal.console().width - len("seconds  999.9 MB  ")
    for r in rows:
        before = "-" if r.bytes_in is None else size(r.bytes_in)
        result.add_row(f"{r.seconds:.1f}", before, shorten(paths.path(r.path), space))
    return result


def _print_log_faults(source: FromLedger | FromLogs | FromManifest) -> None:
    """Print on stderr how many lines were skipped, and which logs are incomplete."""
    if not isinstance(source, FromLogs):
        return
    counts = {
        "not from lensd": source.foreign,
        "incomplete": source.cut,
        "repeated": source.repeated,
    }
    faults = [f"{count} {kind}" for kind, count in counts.items() if count]
    out = terminal.console(stderr=True)
    if faults:
        out.print(f"lensd: of {source.lines} lines: {', '.join(faults)}")
    for fault in source.unreadable:
        out.print(f"lensd: {visible(fault)}")
