"""The long suites: how much of them runs, and what they say at the end of the run."""

from __future__ import annotations

import os
import secrets
from collections import defaultdict
from collections.abc import Sequence
from typing import TypeVar

from _pytest.terminal import TerminalReporter
from hypothesis import settings

from tests.faults import results

Case = TypeVar("Case")

# `make test-all` sets it. Without it the longest suites take a sample of their cases.
FULL = os.environ.get("LENSD_FULL") == "1"
# Whether this run goes into the table of faults; lines of tests say how much of it ran.
RECORDED = FULL or os.environ.get("LENSD_RECORD") == "1"
TOLD = "told"


def examples(count: int) -> settings:
    """Of hypothesis for one test: `count` examples under `make test-all`, else half of them."""
    return settings(max_examples=count if FULL else count // 2)


def seed(number: int) -> int:
    """For the dice of one test, told at its end: LENSD_SEED, else another one in each run.

    CI takes `number`, so that a red run can be repeated; moments differ nevertheless.
    """
    if given := os.environ.get("LENSD_SEED"):
        return int(given)
    return number if "CI" in os.environ else secrets.randbelow(2**32)


def sample(cases: Sequence[Case], few: int) -> list[Case]:
    """All of them under `make test-all`; else `few`, evenly spread, the first and last included."""
    if FULL or len(cases) <= few:
        return list(cases)
    last = len(cases) - 1
    return [cases[round(n * last / (few - 1))] for n in range(few)]


def summarize(terminal: TerminalReporter) -> None:
    """Lines that tests added, and the seconds of each file with slow tests."""
    seconds: dict[str, float] = defaultdict(float)
    slow: set[str] = set()
    told: list[str] = []
    for reports in terminal.stats.values():
        for report in reports:
            if not hasattr(report, "nodeid") or not hasattr(report, "duration"):
                continue
            file = report.nodeid.partition("::")[0]
            seconds[file] += report.duration
            if "slow" in report.keywords:
                slow.add(file)
            if report.when == "call":
                told += [f"{file}: {text}" for key, text in report.user_properties if key == TOLD]
    if RECORDED:
        results.write(terminal, TOLD)
    if told or slow:
        terminal.section("suites" if FULL else "suites (the longest are sampled: make test-all)")
    for line in told:
        terminal.write_line(line)
    for file in sorted(slow, key=lambda f: -seconds[f]):
        terminal.write_line(f"{seconds[file]:8.1f} s  {file}")
