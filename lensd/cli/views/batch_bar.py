"""What a person at a terminal sees of `lensd once`: a line a file, how far it is, and the sum."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Self

from lensd.cli import say
from lensd.cli.views.progress import Bar
from lensd.cli.views.terminal import share_a_terminal
from lensd.daemon.event_log import LEVELS
from lensd.daemon.progress import ENDS, FAILURES, ProgressObserver
from lensd.logs.sinks import Unheard
from lensd.text import size, visible


class BatchBar(ProgressObserver):
    """Follows the batch on stderr (docs/decisions/0021-a-person-at-a-terminal.md)."""

    def __init__(self) -> None:
        self._bar = Bar()
        self._ends: Counter[str] = Counter()
        self._before = self._after = 0
        if share_a_terminal():
            self.stdout = Unheard()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Take the bar away and sum up, also where an error ended it on the way."""
        self._bar.close()
        if kind is None or self._ends:
            for line in self._summary():
                say(line)

    def begin(self, sizes: Mapping[str, int]) -> None:
        self._bar.open(sizes)

    def step(self, path: str, stage: str, done: int, of: int) -> None:
        self._bar.begin(path)
        self._bar.step(path, stage, done, of)

    def told(self, event: str, fields: Mapping[str, Any]) -> None:
        if event in ENDS:
            self._end(event, fields)
        elif LEVELS.get(event, "info") != "info":
            self._bar.message(visible(f"{event}: {fields.get('message', '')}"), is_fault=True)

    def _end(self, event: str, fields: Mapping[str, Any]) -> None:
        end = event.removeprefix("file.")
        self._ends[end] += 1
        if event == "file.compressed":
            self._before += fields["bytes_in"]
            self._after += fields["bytes_out"]
        self._bar.end(fields["path"])
        line = f"{end:<11} {fields['path']}: {_what_came_of_it(event, fields)}"
        self._bar.message(visible(line), is_fault=event in FAILURES)

    def _summary(self) -> Iterator[str]:
        told = ", ".join(f"{count:,} {end}" for end, count in sorted(self._ends.items()))
        yield told or "there was nothing to do"
        if self._after:
            ratio = self._before / self._after
            yield f"{size(self._before)} -> {size(self._after)}, {ratio:.1f} times smaller"


def _what_came_of_it(event: str, fields: Mapping[str, Any]) -> str:
    if event == "file.compressed":
        return (
            f"{size(fields['bytes_in'])} -> {size(fields['bytes_out'])}, "
            f"{fields['ratio']:.1f} times smaller, delta error {fields['delta_error']:.4f}"
        )
    if event == "file.analyzed":
        return ", ".join(f"{mode} {size(n)}" for mode, n in fields["predicted"].items())
    return str(fields.get("message", ""))
