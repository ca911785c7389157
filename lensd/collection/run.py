"""A run over a collection: list the source, do what is new or changed, keep the manifest.

One thread lists, hands out tasks and writes the journal; the tasks run in threads or on a cluster.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, suppress
from typing import TypeAlias

import msgspec

from lensd.collection import rows
from lensd.collection.index import Index, Totals
from lensd.collection.item import Item
from lensd.collection.manifest import Journal
from lensd.collection.place import describe, open_place, require_apart, require_unbound
from lensd.collection.rows import Head, Row
from lensd.collection.task import Job, Task
from lensd.errors import LensdError, LockedError, Outcome, Reason, StorageError

# Objects in a row whose transfers failed: then the network or a store is away.
MOST_TRANSFERS_FAILED = 20

Submit: TypeAlias = Callable[[Task], Future[Row]]
OnRow: TypeAlias = Callable[[Row], None]


@contextmanager
def work_folder(path: str) -> Iterator[str]:
    """A new folder beside the manifest, for this run alone; it is removed at the end.

    Raises LockedError while another run has it, StorageError if it cannot be made.
    """
    folder = f"{os.path.abspath(path)}.work"
    try:
        fd = _lock_folder(folder)
    except BlockingIOError:
        raise LockedError(
            f"another `lensd batch` uses the manifest {path}; wait for its end, or name another "
            "--manifest"
        ) from None
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be made: {error.strerror}; choose another --manifest"
        ) from None
    try:
        _empty(folder)  # of a run that was killed
        try:
            yield folder
        finally:
            shutil.rmtree(folder)
    finally:
        os.close(fd)


def _lock_folder(folder: str) -> int:
    """A descriptor of the folder, which is made if need be, with a lock.

    A run that ends removes its folder: then the name may have no folder, or that of a third run.
    Raises BlockingIOError while another run has it, other OSErrors.
    """
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    while True:
        with suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        try:
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), os.stat(folder)):
                return fd
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _empty(folder: str) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)


class Run:
    """`job` for all objects that `path`, the manifest, does not know as done."""

    def __init__(self, job: Job, path: str, index: Index) -> None:
        self._job, self._path, self._index = job, path, index
        self._source = open_place(job.source)
        self._destination = open_place(job.destination)
        require_apart(self._source, self._destination)

    def list_source(self) -> Totals:
        """Returns how many objects it has. Raises StorageError where it cannot be listed."""
        try:
            self._index.add(map(self._entry, self._source.find()))
        except LensdError:
            raise
        except Exception as error:  # noqa: BLE001  the libraries for stores have many kinds
            raise StorageError(
                f"{self._source.url} cannot be listed: {describe(error)}; check address, "
                "permissions and network"
            ) from None
        return self._index.found()

    @property
    def left_out(self) -> list[str]:
        """The folders of the source that could not be listed, each with the reason."""
        return self._source.left_out

    def prepare_destination(self) -> None:
        """Make its folder. Raises StorageError if that is not possible, or the store is away.

        Raises UsageError as `require_unbound` does, which needs the folder.
        """
        try:
            self._destination.prepare()
        except Exception as error:  # noqa: BLE001  the libraries for stores have many kinds
            raise StorageError(
                f"{self._destination.url} cannot take objects: {describe(error)}; choose another "
                "DEST, or give the user of lensd access"
            ) from None
        require_unbound(self._source, self._destination)

    def tasks(self) -> Iterator[Task]:
        """For the objects that are to do."""
        for item, known in self._index.todo():
            yield Task(self._job, item, self._token(item), known)

    def sample(self, count: int) -> list[Task]:
        """As `tasks`, for some of them."""
        return [Task(self._job, item, self._token(item)) for item in self._index.sample(count)]

    def know(self, found: Iterator[tuple[int, Row]]) -> None:
        """Add the rows of earlier runs. Raises what `found` raises."""
        self._index.note((place, msgspec.convert(row, Head)) for place, row in found)

    def _entry(self, item: Item) -> tuple[str, str, Item]:
        mark = rows.mark_of(item.version, self._destination.url, self._job.settings)
        return rows.path_of(self._source.url, item), mark, item

    def _token(self, item: Item) -> str:
        """The same in each run with this manifest: a run replaces what a killed one left."""
        whole = os.fsencode(f"{os.path.abspath(self._path)}\0{item.name}")
        return hashlib.sha256(whole).hexdigest()[:24]


class Recorder:
    """Writes rows to the journal and the index, and shows them."""

    def __init__(self, journal: Journal, index: Index, on_row: OnRow) -> None:
        self._journal, self._index, self._on_row = journal, index, on_row
        self.failed = 0
        self._transfers_failed = 0

    def record(self, found: list[Row]) -> None:
        """Raises StorageError where nothing but failed transfers comes."""
        places = self._journal.append(found)
        heads = (msgspec.convert(row, Head) for row in found)
        self._index.note(zip(places, heads, strict=True))
        for row in found:
            self._on_row(row)
            self.failed += row["outcome"] in (Outcome.FAILED, Outcome.QUARANTINED)
            in_transfer = row.get("reason") == Reason.TRANSFER_FAILED
            self._transfers_failed = self._transfers_failed + 1 if in_transfer else 0
            if self._transfers_failed == MOST_TRANSFERS_FAILED:
                raise StorageError(
                    f"the transfers of {MOST_TRANSFERS_FAILED} objects in a row failed, so the run "
                    f"ended; the last error: {row['message']}"
                )


def do_all(
    tasks: Iterator[Task],
    submit: Submit,
    inflight: int,
    record: Callable[[list[Row]], None],
) -> None:
    """Run tasks, `inflight` at a time, and record each row as it comes. Raises what they raise."""
    pending: set[Future[Row]] = set()
    is_more = True
    while is_more or pending:
        while is_more and len(pending) < inflight:
            task = next(tasks, None)
            is_more = task is not None
            if task is not None:
                pending.add(submit(task))
        done, pending = wait(pending, return_when=FIRST_COMPLETED)
        failed = [future for future in done if future.exception() is not None]
        record([future.result() for future in done.difference(failed)])
        for future in failed:
            future.result()
