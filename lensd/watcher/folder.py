"""What the watcher needs to know of a watched folder, and the log that it writes to."""

from __future__ import annotations

from typing import Protocol


class Folder(Protocol):
    """A watched folder, as lensd.config resolves it."""

    @property
    def root(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def existing(self) -> str: ...
    @property
    def recursive(self) -> bool: ...
    def selects(self, relative: str) -> bool: ...


class Log(Protocol):
    def __call__(self, event: str, **fields: object) -> None: ...
