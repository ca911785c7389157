"""What the watcher needs to know of a watched folder, and where its events go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from lensd.logs.events import Event

Log: TypeAlias = Callable[[Event], None]


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
