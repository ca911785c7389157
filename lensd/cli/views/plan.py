"""Prints the plan of `lensd once`: what it will do, and what it will leave alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from rich.console import Console
from rich.table import Table

from lensd.cli.views.file_lines import ShortPaths, describe, describe_rest, shorten, wrap
from lensd.cli.views.terminal import columns_for_names, console, show, table
from lensd.config.model import Config
from lensd.daemon.estimate import Estimate
from lensd.text import plural, size, visible

LEFT = 10  # files that stay as they are, by name; -v and a pipe have all
LEAST_NAME = 12  # columns that the name of a folder keeps in the table


def show_plans(config: Config, plans: Sequence[Estimate], *, stderr: bool, verbose: bool) -> None:
    """A table at a terminal that is wide enough, otherwise lines."""
    out = console(stderr=stderr)
    if not out.is_terminal:
        show(*(visible(line) for plan in plans for line in describe_plan(plan)), stderr=stderr)
        return
    width = out.width
    lines: list[str | Table] = []
    busy = [plan for plan in plans if plan.files]
    columns = _table(busy, out) if busy else None
    if columns:
        lines += [columns, "", *wrap(_note(busy), width, "")]
    else:
        lines += [line for plan in busy for line in _narrow(plan, width)]
    lines += [
        line for plan in plans if not plan.files for line in wrap(_nothing(plan), width, "  ")
    ]
    paths = ShortPaths.of(config.watch)
    left = [
        "\n".join(describe("left alone", paths.path(path), paths.text(visible(why)), width))
        for plan in plans
        for path, why in plan.left
    ]
    shown = len(left) if verbose else LEFT
    lines += [*left[:shown], *describe_rest(len(left) - shown, "-v lists all")]
    show(*lines, stderr=stderr)


def _table(plans: Sequence[Estimate], out: Console) -> Table | None:
    """Names of folders get the columns that the numbers leave. None: these are too few."""
    names = [visible(plan.watch) for plan in plans]
    space = columns_for_names(names, partial(_rows, plans), out)
    short = [shorten(name, max(1, space)) for name in names]
    is_clear = space >= LEAST_NAME or short == names
    return _rows(plans, short) if is_clear and len({*short}) == len(names) else None


def _rows(plans: Sequence[Estimate], names: Sequence[str]) -> Table:
    numbers = ("files", "now", "after", "archive needs", "takes")
    found = table("folder", "mode", *numbers, numbers=numbers)
    for plan, name in zip(plans, names, strict=True):
        found.add_row(
            name,
            plan.mode,
            f"{plan.files:,}",
            size(plan.bytes_now),
            _range(plan.bytes_least, plan.bytes_most),
            size(plan.archive_needs),
            _format_duration(plan.seconds),
        )
    return found


def _narrow(plan: Estimate, width: int) -> Iterator[str]:
    yield from wrap(f"{plan.watch}, mode {plan.mode}: {plural(plan.files)}", width, "  ")
    yield f"  now    {size(plan.bytes_now)}"
    yield f"  after  {_range(plan.bytes_least, plan.bytes_most)}"
    yield f"  takes  {_format_duration(plan.seconds)}"
    needs = f"needs {size(plan.archive_needs)}, has {size(plan.archive_free)} free"
    yield from wrap(f"  the archive {needs}", width, "  ")


def _note(plans: Sequence[Estimate]) -> str:
    now = sum(plan.bytes_now for plan in plans)
    least, most = sum(p.bytes_least for p in plans), sum(p.bytes_most for p in plans)
    saved = _range(now - most, now - least)
    return (
        f"saves {saved}; an estimate from a few modules of each file. The archive has "
        f"{size(plans[0].archive_free)} free."
    )


def _range(least: int, most: int) -> str:
    """E.g. `45 to 55.1 MB`: two sizes, and one unit if both have the same."""
    low, high = size(least), size(most)
    if low == high:
        return high
    number, unit = low.split(" ")
    return f"{number} to {high}" if high.endswith(f" {unit}") else f"{low} to {high}"


def _nothing(plan: Estimate) -> str:
    if not plan.redone:
        return f"{plan.watch}: nothing to do"
    return f"{plan.watch}: nothing to do; --redo would process {plural(plan.redone)} again"


def _format_duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes // 60}:{minutes % 60:02d} h"


def describe_plan(plan: Estimate) -> Iterator[str]:
    """The plan of one folder in lines for a pipe."""
    if plan.files:
        after = _range(plan.bytes_least, plan.bytes_most)
        yield (
            f"{plan.watch}: {plural(plan.files)}, {size(plan.bytes_now)} now, about {after} "
            f"in mode {plan.mode}; the archive needs {size(plan.archive_needs)}"
            f" ({size(plan.archive_free)} free); about {plan.seconds:.0f} s"
        )
    else:
        yield _nothing(plan)
    yield from (f"left alone: {path}: {why}" for path, why in plan.left)
