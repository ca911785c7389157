"""The rest of a rebuild: originals that are hashed one by one while the daemon has no job."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from lensd.errors import DiskUnavailable, FileError
from lensd.jobs.archive_check import hold_archive
from lensd.jobs.rebuild import Rebuilt, report
from lensd.jobs.unclaimed import find_unclaimed, hash_unclaimed
from lensd.store.archive import Archive
from lensd.store.ledger import Ledger
from lensd.watcher.folder import Folder, Log

_MESSAGE = (
    "the ledger is complete again: lensd has hashed the originals whose outputs were deleted or "
    "moved"
)


@dataclass(slots=True)
class _Rest:
    """The originals of one folder that are left, and how many were hashed."""

    left: Iterator[tuple[str, str]]
    hashed: int = 0
    is_readable: bool = True  # all of them so far


class RebuildLater:
    """Hashes the originals that `rebuild` left, one by one, in the job thread between two jobs."""

    def __init__(
        self,
        folders: Sequence[Folder],
        ledger: Ledger,
        archive: Archive,
        log: Log,
        must_wait: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """`must_wait(root)`: its disk is away, so that every path in it seems to be free."""
        self._folders = {folder.root: folder for folder in folders}
        self._ledger = ledger
        self._archive = archive
        self._log = log
        self._must_wait = must_wait
        self._rests: dict[str, _Rest] = {}
        self._unreadable: set[str] = set()  # roots whose note stays for the next start

    def roots(self) -> list[str]:
        """The watched folders that have originals to hash."""
        noted = self._ledger.state.rebuilding.get() or ()
        return [root for root in noted if root in self._folders and root not in self._unreadable]

    def run_some(self, root: str, stop: Callable[[], bool]) -> None:
        """Until all of a root is done, or `stop()` is true before an original.

        Without effect while the archive is away. Raises StorageError.
        """
        with suppress(DiskUnavailable, OSError), hold_archive(self._archive, self._ledger):
            try:
                self._run_folder(self._folders[root], stop)
            except BaseException:
                self._rests.pop(root, None)  # an iterator ends with its first exception
                raise

    def _run_folder(self, folder: Folder, stop: Callable[[], bool]) -> None:
        ledger, archive = self._ledger, self._archive
        rest = self._rests.get(folder.root)
        if rest is None:
            rest = self._rests[folder.root] = _Rest(find_unclaimed(folder, ledger, archive))
        while not (stop() or self._must_wait(folder.root)):
            found = next(rest.left, None)
            if found is None:
                self._end(folder, rest)
                return
            try:
                hash_unclaimed(folder, ledger, archive, *found)
            except (FileError, OSError):
                rest.is_readable = False
            else:
                rest.hashed += 1

    def _end(self, folder: Folder, rest: _Rest) -> None:
        del self._rests[folder.root]
        if not rest.is_readable:
            self._unreadable.add(folder.root)
            return
        with self._ledger.together():
            waiting = self._ledger.state.rebuilding.get() or ()
            self._ledger.state.rebuilding.set(tuple(r for r in waiting if r != folder.root))
        report(folder, Rebuilt(originals=rest.hashed), self._log, _MESSAGE)
