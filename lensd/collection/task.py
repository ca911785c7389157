"""One object from the source to the destination: fetch, compress, publish.

The same function runs in a thread of this process and on a worker of a cluster.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory

from msgspec import structs

from lensd.collection import rows
from lensd.collection.engines import Engines
from lensd.collection.item import Item, is_usable
from lensd.collection.place import Place, describe, open_place
from lensd.collection.rows import Row
from lensd.errors import Failed, FileError, Outcome, Reason, Skipped, StorageError, bug
from lensd.lora.parameters import Parameters
from lensd.store.hashing import sha256_of
from lensd.text import plural, printable
from lensd.worker.request import Bug, CompressRequest, CompressResult, Refused
from lensd.worker.staged import Staged, request_bytes
from lensd.worker.workers import Abandoned, End, WorkerLost

# Seconds before each further try of a transfer that failed.
BACK_OFF = (1.0, 5.0, 25.0)
# Times that an object may end its worker process.
CRASHES = 3
# Faults of the disk of this machine: all further objects would meet them.
_DISK_FAULTS = (Reason.NO_SPACE, Reason.READ_ONLY)
# LoRAs that stay as they are. Other skipped objects are broken, or no LoRAs.
_LORAS = {
    Reason.ALREADY_COMPRESSED,
    Reason.UNSUPPORTED_ADAPTER,
    Reason.UNSUPPORTED_DTYPE,
    Reason.ALPHA_ZERO,
    Reason.TOO_COSTLY,
} | {reason for reason in Reason if reason.outcome is Outcome.KEPT}
# Errors of a transfer that a further try meets again.
_LASTING = (PermissionError, NotADirectoryError, IsADirectoryError)


@dataclass(frozen=True, slots=True)
class Job:
    """What all objects of a run have in common. `settings`: the same as one text, for the rows."""

    source: str
    destination: str
    parameters: Parameters
    min_saving: float
    device: str
    settings: str
    copies: bool  # of LoRAs that stay as they are
    replaces: bool  # any object in the destination
    publishes: bool = True


@dataclass(frozen=True, slots=True)
class Task:
    """`known`: sha256 of what an earlier run published; `token`: for a temporary file beside it."""

    job: Job
    item: Item
    token: str
    known: str | None = None


class _Changed(Exception):
    """The object changed while it was read."""


class _Clock:
    """Seconds of each stage around the computation."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[stage] = round(time.monotonic() - began, 4)


def run(task: Task, engines: Engines) -> Row:
    """Bring an object to its end. Returns its row.

    Raises StorageError for a fault of a disk of this machine, Abandoned after `engines.stop`.
    """
    job, began = task.job, time.monotonic()
    source, destination = open_place(job.source), open_place(job.destination)
    attempts, crashes = 0, 0
    while True:
        attempts += 1
        try:
            fields = _attempt(task, engines, source, destination)
            break
        except (StorageError, Abandoned):
            raise
        except FileError as error:
            if error.reason in _DISK_FAULTS:
                raise StorageError(str(error), error.disk) from None
            fields = rows.of_error(error)
            break
        except WorkerLost as lost:
            crashes += 1
            if crashes == CRASHES:
                failed = Failed(lost.reason, f"{lost}, {crashes} times on this file")
                fields = rows.of_error(failed, Outcome.QUARANTINED)
                break
        except Exception as error:  # noqa: BLE001  the libraries for stores have many kinds
            if attempts > len(BACK_OFF) or isinstance(error, _LASTING):
                fields = rows.of_error(_end_of_transfers(error, attempts))
                break
            engines.pause(BACK_OFF[attempts - 1])
    fields["seconds"] = fields.get("seconds", {}) | {"total": round(time.monotonic() - began, 4)}
    return rows.complete(fields, _head(task, source, destination) | {"attempts": attempts})


def row_of_crash(task: Task, message: str) -> Row:
    """The row of an object that ended the worker of a cluster again and again."""
    source, destination = open_place(task.job.source), open_place(task.job.destination)
    fields = rows.of_error(Failed(Reason.WORKER_CRASHED, message), Outcome.QUARANTINED)
    return rows.complete(fields, _head(task, source, destination) | {"attempts": CRASHES})


def _head(task: Task, source: Place, destination: Place) -> Row:
    version = task.item.version
    return {
        "path": rows.path_of(source.url, task.item),
        "destination": printable(destination.url),
        "output": None,
        "settings": task.job.settings,
        "source_size": version.size,
        "source_etag": version.etag,
        "source_mtime": version.mtime,
        "sha256_out": task.known,
    }


def _attempt(task: Task, engines: Engines, source: Place, destination: Place) -> Row:
    """The fields of the object's end. Raises FileError, WorkerLost, Abandoned, OSError, others."""
    name = task.item.name
    if not is_usable(name):
        raise Failed(
            Reason.UNUSABLE_NAME,
            "no file can have this name in every store; give the object another one",
        )
    with _reading(source):
        version = source.version(name)
    if version is None:
        raise Skipped(Reason.VANISHED, "the object was deleted after the listing")
    clock = _Clock()
    with TemporaryDirectory(prefix="lensd-", dir=engines.folder) as folder:
        with clock.measure("fetch"), _reading(source):
            path = _fetch(source, name, folder)
        end, output = _compress(task, path, engines, clock)
        refused = None if isinstance(end, CompressResult) else _error_of(end)
        is_copied = refused is not None and task.job.copies and refused.reason in _LORAS
        result = os.path.join(folder, "result")
        if isinstance(end, CompressResult):
            with open(result, "xb") as file:
                file.write(output)
        elif is_copied:
            shutil.copyfile(path, result)
        if source.version(name) != version:
            raise _Changed
        fields = structs.asdict(version)
        fields = {f"source_{field}": value for field, value in fields.items()}
        if isinstance(end, CompressResult):
            fields |= rows.of_output(end.measures, task.job.parameters.mode)
        elif refused is not None:
            fields |= rows.of_error(refused)
        if task.job.publishes and os.path.exists(result):
            with clock.measure("publish"), _writing(destination, name):
                fields |= _publish(task, destination, result, folder)
        fields["seconds"] = fields.get("seconds", {}) | clock.seconds
        return fields | ({"copied": True} if is_copied else {})


@contextmanager
def _reading(source: Place) -> Iterator[None]:
    """Raises Failed for a file that may not be read."""
    try:
        yield
    except PermissionError as error:
        if not source.has_file_permissions:
            raise
        raise Failed(
            Reason.UNREADABLE,
            f"lensd may not read the file ({describe(error)}); give its user read permission, and "
            "run the same command again",
        ) from None


@contextmanager
def _writing(destination: Place, name: str) -> Iterator[None]:
    """Raises Failed for a folder of the destination that takes no files."""
    folder = os.path.dirname(f"{destination.url.rstrip('/')}/{name}")
    try:
        yield
    except NotADirectoryError as error:
        raise Failed(
            Reason.DESTINATION_TAKEN,
            f"there can be no folder {folder}: {describe(error)}; rename what has that name, or "
            "choose another DEST",
        ) from None
    except PermissionError as error:
        if not destination.has_file_permissions:
            raise
        raise Failed(
            Reason.DESTINATION_DENIED,
            f"lensd may not write to {folder} ({describe(error)}); give its user access to that "
            "folder, and run the same command again",
        ) from None


def _fetch(source: Place, name: str, folder: str) -> str:
    try:
        return source.fetch(name, folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(f"the disk of {folder} is full; free space there", folder) from None
        raise


def _compress(task: Task, path: str, engines: Engines, clock: _Clock) -> Staged:
    job = task.job
    request = CompressRequest(
        path=path,
        name=printable(os.path.basename(task.item.name)),
        parameters=job.parameters,
        min_saving=job.min_saving,
        device=job.device,
        temporary="",
        temporary_inode=(0, 0),
        processes=engines.count,
    )
    with ExitStack() as stack:
        with clock.measure("wait"):
            worker = stack.enter_context(engines.worker())
        return request_bytes(worker, request, None, engines.folder, engines.is_stopping)


def _error_of(end: End) -> FileError:
    """The error that the worker process raised. Raises _Changed for an object that changed."""
    if isinstance(end, Bug):
        return bug(end.traceback)
    if not isinstance(end, Refused):
        raise TypeError(f"no answer to a request to compress: {end!r}")
    if end.reason is Reason.CHANGED:
        raise _Changed
    return structs.replace(end, folder_advice="").to_error()


def _publish(task: Task, destination: Place, result: str, folder: str) -> Row:
    """Put a file into the destination. Raises Failed where another program's object has the name.

    The same bytes may be there already, if an earlier run was killed before it had a row for them.
    """
    name = task.item.name
    with open(result, "rb") as file:
        sha256 = sha256_of(file.fileno())
    try:
        destination.publish(name, result, task.token, replace=task.job.replaces)
    except FileExistsError:
        if destination.version(name) is None:  # such as a folder or a pipe
            raise _is_taken(destination) from None
        os.mkdir(there := os.path.join(folder, "there"))
        with open(destination.fetch(name, there), "rb") as file:
            present = sha256_of(file.fileno())
        if present != sha256:
            if present != task.known:
                raise _is_taken(destination) from None
            destination.publish(name, result, task.token, replace=True)
    return {"output": printable(f"{destination.url.rstrip('/')}/{name}"), "sha256_out": sha256}


def _is_taken(destination: Place) -> Failed:
    return Failed(
        Reason.DESTINATION_TAKEN,
        f"{destination.url} has another object of this name, which lensd left alone; delete it, "
        "choose another DEST, or replace such objects with --force",
    )


def _end_of_transfers(error: Exception, attempts: int) -> FileError:
    if isinstance(error, _Changed):
        return Skipped(Reason.CHANGED, f"the object changed while lensd read it, {attempts} times")
    access = "give the user of lensd access, and " if isinstance(error, PermissionError) else ""
    return Failed(
        Reason.TRANSFER_FAILED,
        f"{describe(error)} ({plural(attempts, 'attempt')}); {access}run the same command again",
    )
