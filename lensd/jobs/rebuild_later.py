"""The rest of a rebuild: originals that are hashed one by one while the daemon has no job."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from lensd.errors import FileError
from lensd.jobs.rebuild import Rebuilt, report
from lensd.jobs.unclaimed import find_unclaimed, hash_unclaimed
from lensd.store.archive import Archive
from lensd.store.ledger import Ledger
from lensd.watcher.folder import Folder, Log

_MESSAGE = (
    "the ledger is complete again: lensd has hashed the originals whose outputs were deleted or "
    "moved"
)


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
        self._left: dict[str, Iterator[tuple[str, str]]] = {}
        self._hashed: dict[str, int] = {}
        self._unreadable: set[str] = set()  # roots whose note stays for the next start

    def roots(self) -> list[str]:
        """The watched folders that have originals to hash."""
        noted = self._ledger.state.rebuilding.get() or ()
        return [root for root in noted if root in self._folders and root not in self._unreadable]

    def run_some(self, root: str, stop: Callable[[], bool]) -> None:
        """Until all of a root is done, or `stop()` is true before an original.

        Raises StorageError.
        """
        with suppress(OSError):  # the archive is away
            self._run_folder(self._folders[root], stop)

    def _run_folder(self, folder: Folder, stop: Callable[[], bool]) -> None:
        root, ledger, archive = folder.root, self._ledger, self._archive
        unclaimed = find_unclaimed(folder, ledger, archive)
        left = self._left.setdefault(root, unclaimed)
        is_readable = True
        while not (stop() or self._must_wait(root)):
            found = next(left, None)
            if found is None:
                self._end(folder, is_complete=is_readable)
                return
            try:
                hash_unclaimed(folder, ledger, archive, *found)
            except (FileError, OSError):
                is_readable = False
            else:
                self._hashed[root] = self._hashed.get(root, 0) + 1

    def _end(self, folder: Folder, *, is_complete: bool) -> None:
        del self._left[folder.root]
        if not is_complete:
            self._unreadable.add(folder.root)
            return
        with self._ledger.together():
            waiting = self._ledger.state.rebuilding.get() or ()
            self._ledger.state.rebuilding.set(tuple(r for r in waiting if r != folder.root))
        rebuilt = Rebuilt(originals=self._hashed.get(folder.root, 0))
        report(folder, rebuilt, self._log, _MESSAGE)
