"""The progress bar of `lensd once` at a terminal, with one line per file and a summary."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Self

from lensd.cli import say
from lensd.cli.views.file_lines import ShortPaths, shorten
from lensd.cli.views.file_outcomes import FileOutcomes
from lensd.cli.views.progress import Bar
from lensd.cli.views.terminal import share_a_terminal
from lensd.config.model import Watch
from lensd.daemon.progress import ProgressObserver
from lensd.logs.events import Event, FileSettled, WorkerCrashed, WorkerStarted
from lensd.logs.sinks import NullSink
from lensd.text import plural

STARTS_WORKER = "starting the worker process"
NAME_COLUMNS = 30  # of a file that is waited for


class BatchBar(ProgressObserver):
    """Shows the progress of the batch on stderr (docs/decisions/0021-a-person-at-a-terminal.md)."""

    def __init__(self, watches: Iterable[Watch], *, verbose: bool = False) -> None:
        self._bar = Bar()
        self._paths = ShortPaths.of(watches)
        self._outcomes = FileOutcomes(self._bar, self._paths, verbose=verbose)
        self._workers: set[int] = set()  # their pids
        self._reasons: dict[str, str] = {}  # why a file is no job yet, by path
        self._is_stopped = False
        if share_a_terminal():
            self.stdout = NullSink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Remove the bar and print the summary, also after an error if any file was processed."""
        self._bar.close()
        lines = list(self._outcomes.summary())
        if kind is None and not self._is_stopped:
            lines = lines or ["no files to process"]
        for line in lines:
            say(line)

    def begin(self, sizes: Mapping[str, int]) -> None:
        self._bar.open(sizes)

    def settling(self, files: int, seconds: float) -> None:
        left = f"({seconds:.0f} s)"
        if len(self._reasons) == files == 1:
            [(path, reason)] = self._reasons.items()
            name = os.path.basename(self._paths.path(path))
            self._bar.notice = f"waiting {left}: {shorten(name, NAME_COLUMNS)}: {reason}"
        else:
            are = "is" if files == 1 else "are"
            self._bar.notice = f"waiting until {plural(files)} {are} quiet {left}"

    def waiting(self, path: str, reason: str | None) -> None:
        if reason is None:
            self._reasons.pop(path, None)
        else:
            self._reasons[path] = reason

    def step(self, path: str, stage: str, done: int, of: int) -> None:
        self._bar.begin(path)
        self._bar.step(path, stage, done, of)

    def ended(self, path: str) -> None:
        self._bar.leave(path)

    def logged(self, event: Event) -> None:
        if isinstance(event, WorkerStarted | WorkerCrashed):
            self._workers.discard(event.pid)
            if isinstance(event, WorkerStarted):
                self._workers.add(event.pid)
            self._bar.notice = ""
        elif isinstance(event, FileSettled) and not self._workers:
            self._bar.notice = STARTS_WORKER
        self._outcomes.note(event)

    def stopped(self, left: int) -> None:
        self._is_stopped = True
        self._bar.close()
        say(describe_stop(left))


def describe_stop(left: int) -> str:
    """What a signal has left, and how to go on."""
    if not left:
        return "stopped: no file is left"
    stay = "stays" if left == 1 else "stay"
    return f"stopped: {plural(left)} {stay} queued; `lensd once` or `lensd run` goes on with them"


class Plain(ProgressObserver):
    """For a pipe, whose reader has the log: stderr has only what a signal has left."""

    def stopped(self, left: int) -> None:
        say(describe_stop(left))
