"""What `lensd run` shows at a terminal: what it watches, then a line per file, and what waits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Self

from rich.cells import cell_len

from lensd import __version__
from lensd.cli import say
from lensd.cli.views.batch_bar import STARTS_WORKER, describe_stop
from lensd.cli.views.file_lines import LEAST_PATH, ShortPaths, describe, shorten, wrap
from lensd.cli.views.file_outcomes import FileOutcomes
from lensd.cli.views.progress import Bar
from lensd.cli.views.terminal import share_a_terminal
from lensd.config.model import Config
from lensd.daemon.progress import ProgressObserver
from lensd.logs import events as e
from lensd.logs.sinks import NullSink
from lensd.text import plural, size, visible


class RunScreen(ProgressObserver):
    """Messages on stderr; the last line says what lensd does now. `verbose`: every file."""

    def __init__(self, config: Config, *, verbose: bool = False) -> None:
        self._config = config
        self._bar = Bar()
        self._paths = ShortPaths.of(config.watch)
        self._outcomes = FileOutcomes(self._bar, self._paths, verbose=verbose)
        self._lock = threading.Lock()  # for all below
        self._waiting: dict[str, str] = {}  # path -> why it is no job yet
        self._queued: set[str] = set()
        self._workers: set[int] = set()  # their pids
        if share_a_terminal():
            self.stdout = NullSink()

    def __enter__(self) -> Self:
        for line in self._describe_start():
            self._print(wrap(line, self._bar.width, "  "))
        self._bar.open()
        self._bar.notice = "starting"
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def _describe_start(self) -> Iterator[str]:
        for watch in self._config.watch:
            where = f"lensd {__version__} watches {watch.name}: {watch.path}"
            yield visible(f"{where}, mode {watch.settings.mode}")
        yield visible(f"  originals go to {self._config.archive.path}")
        path = self._config.log.path
        log = f"the log goes to {path}" if path else "no log is written; set log.path for one"
        yield visible(f"  {log}")
        yield "  ^C ends lensd; `lensd status` in another terminal shows more"

    def step(self, path: str, stage: str, done: int, of: int) -> None:
        self._bar.begin(path)
        self._bar.step(path, stage, done, of)

    def ended(self, path: str) -> None:
        self._bar.leave(path)

    def waiting(self, path: str, reason: str | None) -> None:
        with self._lock:
            if reason is None:
                self._waiting.pop(path, None)
            else:
                self._waiting[path] = reason
            self._show_state()

    def logged(self, event: e.Event) -> None:
        with self._lock:
            match event:
                case e.WorkerStarted():
                    self._workers.add(event.pid)
                case e.WorkerStopped() | e.WorkerCrashed():
                    self._workers.discard(event.pid)
                case e.FileDetected():
                    self._waiting.setdefault(event.path, "until it is quiet")
                case e.FileSettled():
                    self._waiting.pop(event.path, None)
                    self._queued.add(event.path)
                    self._bar.expect({event.path: event.bytes})
                case _:
                    self._show_event(event)
            self._outcomes.note(event)
            if isinstance(event, e.JobEnd):
                self._end(event.path)
            self._show_state()

    def _end(self, path: str) -> None:
        """Sum up a batch of several files when the queue is empty."""
        self._queued.discard(path)
        self._waiting.pop(path, None)
        if self._queued:
            return
        if self._outcomes.counts.total() > 1:
            for line in self._outcomes.summary():
                self._print([line])
        self._outcomes.reset()
        self._bar.forget()

    def _show_event(self, event: e.Event) -> None:
        """What has no outcome and is no warning."""
        width = self._bar.width
        match event:
            case e.DaemonBaseline() if event.files:
                is_one = event.files == 1
                stay, them = ("stays as it is", "it") if is_one else ("stay as they are", "them")
                text = (
                    f"  {plural(event.files)} in {event.watch} ({size(event.bytes)}) {stay} "
                    f"(existing: leave); `lensd once` compresses {them}"
                )
                self._print(wrap(text, width, "  "))
            case e.DaemonReady() if event.queued:
                self._print(
                    wrap(f"  goes on with {plural(event.queued)} of the queue", width, "  ")
                )
            case e.FileRestored() | e.FilePruned() | e.FileMoved() | e.FileDeleted():
                done = event.name.removeprefix("file.")
                about = (
                    f"from {self._paths.path(event.from_path)}"
                    if isinstance(event, e.FileMoved)
                    else size(event.bytes)
                )
                self._print(describe(done, self._paths.path(event.path), about, width))
            case e.DaemonPaused() | e.DaemonResumed() | e.DaemonReloaded():
                self._print([event.name.removeprefix("daemon.")])

    def _show_state(self) -> None:
        """The last line, while no file is computed."""
        if self._queued:
            self._bar.notice = "" if self._workers else STARTS_WORKER
        elif self._waiting:
            self._bar.notice = self._describe_waiting()
        else:
            self._bar.notice = f"watching {plural(len(self._config.watch), 'folder')}"

    def _describe_waiting(self) -> str:
        """The first file that waits, and why: its path leaves room for the reason."""
        path, reason = next(iter(self._waiting.items()))
        others = f" (and {len(self._waiting) - 1:,} more)" if len(self._waiting) > 1 else ""
        head, why = f"waiting{others}: ", f": {visible(reason)}"
        space = self._bar.width - cell_len(head) - cell_len(why)
        return f"{head}{shorten(self._paths.path(path), max(LEAST_PATH, space))}{why}"

    def stopped(self, left: int) -> None:
        self._bar.close()
        say(describe_stop(left) if left else "stopped")

    def _print(self, lines: list[str]) -> None:
        self._bar.message("\n".join(lines))
