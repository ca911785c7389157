"""The progress bar of `lensd batch`, with one line for each object that failed and a summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Self

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.text import Text

from lensd.cli.views.terminal import console
from lensd.collection.index import Totals
from lensd.errors import Outcome
from lensd.text import outcomes, size, visible

SHOWN = 20  # lines of failures; the manifest has all
_FAULTS = (Outcome.FAILED, Outcome.QUARANTINED)


class CollectionBar:
    """Files, rate of bytes read and remaining time on stderr, if that is a terminal."""

    def __init__(self, totals: Totals) -> None:
        stderr = console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.fields[done]:,}/{task.fields[files]:,} files"),
            BarColumn(),
            TextColumn("{task.fields[rate]}"),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=stderr,
            redirect_stdout=False,
            redirect_stderr=False,
            transient=True,
            disable=not stderr.is_interactive,
        )
        self._task = self._bar.add_task("", total=totals.bytes, done=0, files=totals.files, rate="")
        self._counts: Counter[str] = Counter()
        self._before = self._after = 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def note(self, row: dict[str, Any]) -> None:
        """Count an object, and print a line if it failed."""
        outcome = row["outcome"]
        self._counts[outcome] += 1
        if outcome == Outcome.COMPRESSED:
            self._before += row["bytes_in"]
            self._after += row["bytes_out"]
        faults = sum(self._counts[fault] for fault in _FAULTS)
        if outcome in _FAULTS and faults <= SHOWN:
            self.say(f"{outcome}: {row['path']}: {row['reason']}: {row['message']}")
        elif outcome in _FAULTS and faults == SHOWN + 1:
            self.say("more objects failed; the manifest names them")
        done = self._counts.total()
        seconds = self._bar.tasks[0].elapsed or 0.0
        rate = f"{done / seconds:.1f} files/s" if seconds else ""
        self._bar.update(self._task, advance=row["source_size"], done=done, rate=rate)

    def say(self, message: str) -> None:
        """A line above the bar."""
        self._bar.console.print(Text(visible(f"lensd: {message}")), soft_wrap=True)

    def summary(self) -> Iterator[str]:
        """The objects of this run by outcome, and the bytes of those that were compressed."""
        yield outcomes(self._counts) or "nothing is new or changed"
        if self._after:
            ratio = self._before / self._after
            yield f"{size(self._before)} -> {size(self._after)}, {ratio:.1f} times smaller"
