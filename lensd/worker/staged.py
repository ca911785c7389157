"""One file as bytes through a worker process of this machine: bytes in, bytes out.

The worker process reads and writes files, so the bytes are staged in a temporary folder. The output
is the one that the daemon gets from its own worker process, since it is the same code.
"""

from __future__ import annotations

import os
from tempfile import TemporaryDirectory
from typing import NamedTuple

from msgspec import structs

from lensd.errors import Failed, StorageError
from lensd.store.disk_errors import disk_faults
from lensd.store.staging import create, inode_of
from lensd.worker.request import AnalyzeRequest, AnyRequest, CompressResult, Refused
from lensd.worker.supervisor import Worker
from lensd.worker.workers import End, GiveUp

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Staged(NamedTuple):
    """How a request ended; `output` has bytes only with a CompressResult."""

    end: End
    output: bytes = b""


def request_bytes(
    worker: Worker,
    request: AnyRequest,
    data: bytes | bytearray | memoryview | None,
    folder: str | None = None,
    give_up: GiveUp = lambda: False,
) -> Staged:
    """Let a worker process of this machine answer a request about `data`.

    Without `data` it reads `request.path`. `folder` holds the staged files, by default the one for
    temporary files. The fields `temporary`, `temporary_inode` and `identity` are not heeded.

    Raises WorkerLost and Abandoned as `worker.request` does, StorageError for a fault of the disk
    of `folder`.
    """
    try:
        with TemporaryDirectory(prefix="lensd-", dir=folder) as staging, disk_faults(staging):
            return _request(worker, request, data, staging, give_up)
    except (OSError, Failed) as error:
        raise _unusable(folder, str(error)) from error


def _request(
    worker: Worker,
    request: AnyRequest,
    data: bytes | bytearray | memoryview | None,
    staging: str,
    give_up: GiveUp,
) -> Staged:
    path = request.path
    if data is not None:
        path = os.path.join(staging, "input")
        with open(path, "xb") as file:
            file.write(data)
    if isinstance(request, AnalyzeRequest):
        analysis = structs.replace(request, path=path, identity=None)
        return Staged(_checked(worker.request(analysis, give_up), staging))
    folder_fd = os.open(staging, _FOLDER)
    try:
        fd = create(folder_fd, "output")
    finally:
        os.close(folder_fd)
    with open(fd, "rb") as output:
        compression = structs.replace(
            request,
            path=path,
            identity=None,
            temporary=os.path.join(staging, "output"),
            temporary_inode=inode_of(fd),
        )
        end = _checked(worker.request(compression, give_up), staging)
        return Staged(end, output.read() if isinstance(end, CompressResult) else b"")


def _checked(end: End, staging: str) -> End:
    """Raises StorageError for a fault of the staging disk, which is not the file's."""
    if isinstance(end, Refused) and end.disk is not None and end.disk.startswith(staging):
        raise _unusable(os.path.dirname(staging), end.message)
    return end


def _unusable(folder: str | None, why: str) -> StorageError:
    where = folder or "the folder for temporary files (TMPDIR)"
    return StorageError(f"files cannot be staged in {where}: {why}", folder)
