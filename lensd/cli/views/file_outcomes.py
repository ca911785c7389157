"""Prints the outcome of each file above a bar, and counts the files for a summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from lensd.cli.views.file_lines import ShortPaths, describe, describe_end
from lensd.cli.views.progress import Bar
from lensd.logs.events import Event, Failure, FileCompressed, JobEnd, Level
from lensd.text import outcomes, size, visible

SHOWN = 20  # lines of each outcome; -v prints all


class FileOutcomes:
    """`verbose`: a line for every file, else for the first files of each outcome."""

    def __init__(self, bar: Bar, paths: ShortPaths, *, verbose: bool) -> None:
        self._bar, self._paths, self._verbose = bar, paths, verbose
        self.counts: Counter[str] = Counter()
        self._before = self._after = 0

    def note(self, event: Event) -> None:
        """An event of the log; from any thread."""
        if isinstance(event, JobEnd):
            self._note_end(event)
        elif event.level != Level.INFO:
            self._warn(event)

    def _note_end(self, event: JobEnd) -> None:
        outcome = event.name.removeprefix("file.")
        self.counts[outcome] += 1
        if isinstance(event, FileCompressed):
            self._before += event.bytes_in
            self._after += event.bytes_out
        self._bar.end(event.path)
        shown = self.counts[outcome]
        if self._verbose or shown <= SHOWN:
            self._print(
                describe_end(event, self._paths, self._bar.width),
                is_fault=isinstance(event, Failure),
            )
        elif shown == SHOWN + 1:
            self._print([f"{'...':<11} more files are {outcome}; -v prints a line for each"])

    def _warn(self, event: Event) -> None:
        message = self._paths.text(visible(getattr(event, "message", "")))
        name = event.name.partition(".")[2]
        path = getattr(event, "path", None)
        head = "lensd" if path is None else self._paths.path(path)
        self._print(describe(name, head, message, self._bar.width), is_fault=True)

    def _print(self, lines: list[str], *, is_fault: bool = False) -> None:
        self._bar.message("\n".join(lines), is_fault=is_fault)

    def summary(self) -> Iterator[str]:
        """The files by outcome, and what they need now; nothing without files."""
        if self.counts:
            yield outcomes(self.counts)
        if self._after:
            ratio = self._before / self._after
            yield f"{size(self._before)} -> {size(self._after)}, {ratio:.1f} times smaller"

    def reset(self) -> None:
        """Begin to count and to print again."""
        self.counts.clear()
        self._before = self._after = 0
