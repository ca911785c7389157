"""What other threads report to the thread of a root. `lensd.daemon.inbox` has the queues."""

from __future__ import annotations

from typing import Protocol


class Hints(Protocol):
    """Every method may be called from any thread, and returns at once."""

    def look(self, path: str) -> None:
        """An absolute path may have changed."""

    def note_new_folder(self, root: str) -> None:
        """A folder below the root is new; the kernel may have refused to watch it."""

    def note_lost_events(self, root: str) -> None:
        """The kernel dropped events of the root, or removed watches with an unmounted disk."""

    def note_changed_root(self, root: str) -> None:
        """A job found another folder, or none, in the place of a watched folder."""
