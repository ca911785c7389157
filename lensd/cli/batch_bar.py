"""What a person at a terminal sees of `lensd once`: how far it is, and what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from lensd.cli import say
from lensd.cli.progress import Bar
from lensd.cli.terminal import share_a_terminal
from lensd.house import FAILURES, Onlooker
from lensd.report.amounts import size
from lensd.report.sinks import LineSink

NAMED = 10  # failures


class BatchBar(Onlooker):
    """Follows the batch on stderr. The log's lines come above the bar where they share a terminal:
    they do not pass through Python's stdout, and would tear it.
    """

    def __init__(self) -> None:
        self._bar = Bar()
        self._ends: Counter[str] = Counter()
        self._failures: list[str] = []
        self._before = self._after = 0
        if share_a_terminal():
            self.stdout = LineSink(self._bar.line)

    def begin(self, sizes: Mapping[str, int]) -> None:
        self._bar.open(sizes)

    def step(self, path: str, stage: str, done: int, of: int) -> None:
        self._bar.begin(path)
        self._bar.step(path, stage, done, of)

    def end(self, event: str, fields: Mapping[str, Any]) -> None:
        self._bar.end(fields["path"])
        self._ends[event.removeprefix("file.")] += 1
        if event == "file.compressed":
            self._before += fields["bytes_in"]
            self._after += fields["bytes_out"]
        if event in FAILURES:
            self._failures.append(f"{fields['path']}: {fields['message']}")

    def close(self) -> None:
        """Take the bar away and sum up."""
        self._bar.close()
        for line in self._summary():
            say(line)

    def _summary(self) -> Iterator[str]:
        yield from (f"failed: {line}" for line in self._failures[:NAMED])
        if len(self._failures) > NAMED:
            yield f"and {len(self._failures) - NAMED} more; `lensd status` lists them"
        told = ", ".join(f"{count:,} {end}" for end, count in sorted(self._ends.items()))
        yield told or "nothing was there to do"
        if self._after:
            ratio = self._before / self._after
            yield f"{size(self._before)} -> {size(self._after)}, {ratio:.1f} times smaller"
