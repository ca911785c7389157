"""A bug, or a damaged row of the ledger, concerns one file: the others go on."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from lensd.errors import StorageError, bug
from lensd.logs.events import file_end
from lensd.watcher.folder import Folder, Log

T = TypeVar("T")


def report_bug(log: Log, folder: Folder, path: str) -> None:
    """Log the exception that is being handled as the end of one file."""
    error = bug(traceback.format_exc(limit=-8))
    log(file_end(error, path=os.path.join(folder.root, path), watch=folder.name, job_id=None))


@contextmanager
def contain_bug(report: Callable[[], None]) -> Iterator[None]:
    """Let a bug end what concerns one file, which `report()` logs. Raises StorageError."""
    try:
        yield
    except StorageError:
        raise
    except Exception:  # noqa: BLE001  one file must not end a start or a restore
        report()


def record_each(
    files: list[T], record: Callable[[list[T]], None], report: Callable[[T], None]
) -> list[T]:
    """Record files at once, or one by one if a bug prevents that; returns the recorded ones.

    `report(file)` logs the exception of each other one. Raises StorageError.
    """
    try:
        record(files)
    except StorageError:
        raise
    except Exception:  # noqa: BLE001  one of the files has the fault
        if len(files) > 1:
            return [f for file in files for f in record_each([file], record, report)]
        report(files[0])
        return []
    return files
