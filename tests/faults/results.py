"""Which test causes which fault, and how it went the last time that was written down."""

from __future__ import annotations

import ast
import json
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from _pytest.terminal import TerminalReporter

from tests.faults.promises import PROMISES

TESTS = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).with_name("results.json")
# What a crash matrix tells of each of its scenes; the table has their sum, results.json has all.
CALLS = re.compile(r"(\d+) of the (\d+) calls")


class Causing(NamedTuple):
    """A test that causes a fault: its file, relative to the repository, and its name."""

    file: str
    test: str

    @property
    def node(self) -> str:
        return f"{self.file}::{self.test}"


def causes() -> dict[str, list[Causing]]:
    """Fault -> its tests, by the marks in the source: nothing needs to be imported."""
    found: dict[str, list[Causing]] = defaultdict(list)
    for path in sorted(TESTS.rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        file = str(path.relative_to(TESTS.parent))
        for_all = [n for s in tree.body if _is_pytestmark(s) for n in _named(s)]
        for test in (s for s in tree.body if isinstance(s, ast.FunctionDef)):
            if test.name.startswith("test_"):
                names = [n for d in test.decorator_list for n in _named(d)]
                for name in {*for_all, *names}:
                    found[name].append(Causing(file, test.name))
    return found


def _is_pytestmark(statement: ast.stmt) -> bool:
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    return any(isinstance(t, ast.Name) and t.id == "pytestmark" for t in targets)


def _named(node: ast.AST) -> Iterator[str]:
    for call in ast.walk(node):
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
            continue
        if call.func.attr == "fault":
            yield from (str(a.value) for a in call.args if isinstance(a, ast.Constant))


def table() -> Iterator[str]:
    """The rows for the documentation."""
    yield "| fault | what lensd guarantees | tests | last result |"
    yield "|---|---|---|---|"
    last = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    tests = causes()
    for fault, promise in PROMISES.items():
        files: dict[str, list[str]] = defaultdict(list)
        for cause in tests[fault]:
            files[cause.file.removeprefix("tests/")].append(f"`{cause.test}`")
        names = "<br>".join(f"{file}: {', '.join(found)}" for file, found in files.items())
        yield f"| {fault} | {promise} | {names} | {_cell(tests[fault], last)} |"


def _cell(tests: list[Causing], last: dict[str, Any]) -> str:
    found = [last["tests"][c.node] for c in tests if c.node in last.get("tests", {})]
    if not found:
        return "never"
    counts = {word: sum(f[word] for f in found) for word in ("passed", "failed", "skipped")}
    words = ", ".join(f"{n} {word}" for word, n in counts.items() if n)
    told = [line for f in found for line in f["told"]]
    calls = [tuple(map(int, m.groups())) for line in told if (m := CALLS.search(line))]
    others = [line for line in dict.fromkeys(told) if not CALLS.search(line)]
    if calls:
        at, of = (sum(numbers) for numbers in zip(*calls, strict=True))
        others.insert(0, f"at {at:,} of {of:,} system calls, in {len(calls)} scenes")
    return "; ".join([f"{last['date']}: {words}", *others])


def write(terminal: TerminalReporter, told: str) -> None:
    """Note what this run showed of every test that causes a fault; others keep what they had."""
    last = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"tests": {}}
    wanted = {c.node for tests in causes().values() for c in tests}
    fresh: dict[str, dict[str, Any]] = {}
    for reports in terminal.stats.values():
        for report in reports:
            node = getattr(report, "nodeid", "").partition("[")[0]
            decides = getattr(report, "when", None) == "call" or not getattr(report, "passed", True)
            if node not in wanted or not decides:
                continue
            counts = {"passed": 0, "failed": 0, "skipped": 0, "told": []}
            entry = fresh.setdefault(node, counts)
            entry[report.outcome] += 1
            entry["told"] += [text for key, text in report.user_properties if key == told]
    tests = {node: v for node, v in {**last["tests"], **fresh}.items() if node in wanted}
    found = {"date": time.strftime("%Y-%m-%d"), "tests": dict(sorted(tests.items()))}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
