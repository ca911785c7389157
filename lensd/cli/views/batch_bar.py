"""The progress bar of `lensd once` at a terminal, with one line per file and a summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Self

import msgspec

from lensd.cli import say
from lensd.cli.views.progress import Bar
from lensd.cli.views.terminal import share_a_terminal
from lensd.daemon.progress import ProgressObserver
from lensd.logs.events import Event, Failure, FileAnalyzed, FileCompressed, JobEnd, Level
from lensd.logs.sinks import NullSink
from lensd.text import outcomes, size, visible


class BatchBar(ProgressObserver):
    """Shows the progress of the batch on stderr (docs/decisions/0021-a-person-at-a-terminal.md)."""

    def __init__(self) -> None:
        self._bar = Bar()
        self._outcomes: Counter[str] = Counter()
        self._before = self._after = 0
        if share_a_terminal():
            self.stdout = NullSink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Remove the bar and print the summary, also after an error if any file was processed."""
        self._bar.close()
        if kind is None or self._outcomes:
            for line in self._summary():
                say(line)

    def begin(self, sizes: Mapping[str, int]) -> None:
        self._bar.open(sizes)

    def step(self, path: str, stage: str, done: int, of: int) -> None:
        self._bar.begin(path)
        self._bar.step(path, stage, done, of)

    def logged(self, event: Event) -> None:
        if isinstance(event, JobEnd):
            self._show_end(event)
        elif event.level != Level.INFO:
            message = getattr(event, "message", "")
            self._bar.message(visible(f"{event.name}: {message}"), is_fault=True)

    def _show_end(self, event: JobEnd) -> None:
        outcome = event.name.removeprefix("file.")
        self._outcomes[outcome] += 1
        if isinstance(event, FileCompressed):
            self._before += event.bytes_in
            self._after += event.bytes_out
        self._bar.end(event.path)
        line = f"{outcome:<11} {event.path}: {_describe(event)}"
        self._bar.message(visible(line), is_fault=isinstance(event, Failure))

    def _summary(self) -> Iterator[str]:
        yield outcomes(self._outcomes) or "no files to process"
        if self._after:
            ratio = self._before / self._after
            yield f"{size(self._before)} -> {size(self._after)}, {ratio:.1f} times smaller"


def _describe(event: JobEnd) -> str:
    if isinstance(event, FileCompressed):
        return (
            f"{size(event.bytes_in)} -> {size(event.bytes_out)}, "
            f"{event.ratio:.1f} times smaller, delta error {event.delta_error:.4f}"
        )
    if isinstance(event, FileAnalyzed):
        sizes = msgspec.structs.asdict(event.predicted)
        return ", ".join(f"{mode} {size(n)}" for mode, n in sizes.items())
    return event.message
