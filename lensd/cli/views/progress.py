"""A progress bar for a batch of files, in the last line of a terminal."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Self

import click
from rich.console import RenderableType
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Column
from rich.text import Text

from lensd.cli.views.file_lines import wrap
from lensd.cli.views.terminal import console, share_a_terminal
from lensd.daemon.progress import STAGES
from lensd.text import visible

REFRESHES = 5  # a second
LEAST_PERCENT = 2.0  # of all bytes, from which on the time left is estimated
LONG = 2000  # characters; for longer lines, such as JSON, the layout by rich takes too long


class _Line(Progress):
    """The bar, or a notice in its place."""

    notice = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        if self.notice:
            yield Text(self.notice, no_wrap=True, overflow="ellipsis")
        else:
            yield from super().get_renderables()


class _TimeLeft(TimeRemainingColumn):
    """No time at first, when the start of the worker process would be taken for its rate."""

    def render(self, task: Task) -> Text:
        early = task.percentage < LEAST_PERCENT
        return Text("-:--:--", style="progress.remaining") if early else super().render(task)


def _columns(width: int) -> Iterator[ProgressColumn]:
    """What a terminal of this width has room for: number and name of the file come first."""
    yield TextColumn(
        "{task.fields[name]}",
        markup=False,
        table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
    )
    if width >= 76:
        yield TextColumn("{task.fields[stage]}", markup=False, table_column=Column(no_wrap=True))
    yield BarColumn(bar_width=8 if width < 76 else 12 if width < 100 else 30)
    yield DownloadColumn(table_column=Column(no_wrap=True))
    if width >= 96:
        yield TransferSpeedColumn(table_column=Column(no_wrap=True))
    yield _TimeLeft(table_column=Column(no_wrap=True))


class Bar:
    """Shows files, bytes, rate and remaining time on stderr, if that is a terminal.

    `sizes`: the bytes of each file, by path. Use it with `with`, or with `open` and `close`.
    """

    def __init__(self, sizes: Mapping[str, int] | None = None) -> None:
        stderr = console(stderr=True)
        self._shared = share_a_terminal()
        self._is_drawn = stderr.is_terminal
        self._bar = _Line(
            *_columns(stderr.width),
            console=stderr,
            refresh_per_second=REFRESHES,
            redirect_stdout=False,
            redirect_stderr=False,
            expand=True,
            transient=True,
            disable=not stderr.is_interactive,
        )
        self._task = self._bar.add_task("", name="", stage="")
        self._sizes: dict[str, int] = {}
        self._left: set[str] = set()
        self._completed = 0
        self._done: dict[str, float] = {}  # bytes of the files that are computed now
        self.expect(sizes or {})

    @property
    def width(self) -> int:
        """Columns of the terminal."""
        return self._bar.console.width

    @property
    def notice(self) -> str:
        """A text that is shown in place of the bar, if it is not empty."""
        return self._bar.notice

    @notice.setter
    def notice(self, text: str) -> None:
        self._bar.notice = text

    def forget(self) -> None:
        """End a batch: the next one begins with no files."""
        self._sizes, self._left, self._completed, self._done = {}, set(), 0, {}
        self._bar.reset(self._task, total=0, name="", stage="")

    def open(self, sizes: Mapping[str, int] | None = None) -> None:
        """Show the bar; `sizes` adds files to the batch."""
        self.expect(sizes or {})
        self._bar.start()

    def close(self) -> None:
        """Remove the bar."""
        self._bar.stop()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def expect(self, sizes: Mapping[str, int]) -> None:
        """Add files to the batch."""
        self._sizes |= sizes
        self._left |= set(sizes)
        self._bar.update(self._task, total=sum(self._sizes.values()))

    def begin(self, path: str) -> None:
        """Show this file as a current one."""
        self._done.setdefault(path, 0.0)
        number = len(self._sizes) - len(self._left) + 1
        names = visible(", ".join(map(os.path.basename, self._done)))
        of = f"{min(number, len(self._sizes))}/{len(self._sizes)} " if len(self._sizes) > 1 else ""
        self._bar.update(self._task, name=f"{of}{names}", stage="")

    def step(self, path: str, stage: str, done: int, of: int) -> None:
        """Show that `done` of the `of` modules (or tensors) of a stage are done."""
        begin, end = STAGES[stage]
        share = begin + (end - begin) * done / max(of, 1)
        self._done[path] = share * self._sizes.get(path, 0)
        others = f" +{len(self._done) - 1}" if len(self._done) > 1 else ""
        self._bar.update(self._task, stage=f"{stage} {done}/{of}{others}", completed=self._reached)

    def end(self, path: str) -> None:
        """Count the file as processed, whatever its outcome."""
        if path in self._left:
            self._left.remove(path)
            self._completed += self._sizes[path]
        self.leave(path)

    def leave(self, path: str) -> None:
        """The file is not computed any more."""
        self._done.pop(path, None)
        self._bar.update(self._task, stage="", completed=self._reached)

    @property
    def _reached(self) -> float:
        return self._completed + sum(self._done.values())

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Hide the bar during the block, so that other code can print."""
        drawn = self._bar.live.is_started
        self._bar.stop()
        try:
            yield
        finally:
            if drawn:
                self._bar.start()

    def print_line(self, text: str, *, is_fault: bool = False) -> None:
        """Print a line of data on stdout; above the bar, if both are on one terminal."""
        if not self._shared:
            click.echo(text)
        elif len(text) > LONG:
            with self.hidden():
                click.echo(text)
        else:
            self.message(text, is_fault=is_fault)

    def say(self, message: str) -> None:
        """Print a message for people above the bar, as `lensd.cli.say` does without a bar."""
        text = visible(f"lensd: {message}")
        self.message("\n".join(wrap(text, self.width, "  ")) if self._is_drawn else text)

    def message(self, text: str, *, is_fault: bool = False) -> None:
        """Print a line on stderr, above the bar. It is not wrapped here."""
        style = "red" if is_fault else ""
        self._bar.console.print(Text(text, style), soft_wrap=True)
