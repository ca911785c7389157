"""An output beside which the user may have other files: whole under its name, or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from lensd.errors import Failed, StorageError, UsageError
from lensd.store.staging import Temporary


@contextmanager
def staged(source: str, target: str, *, force: bool) -> Iterator[Temporary]:
    """A temporary that becomes `target` at the end of the block; an exception removes it.

    Raises UsageError where `target` is `source`, or exists and `force` is not set; StorageError.
    """
    require_free(source, target, force=force)
    folder, name = os.path.split(os.path.realpath(target))  # a link, as /dev/stdout, stays one
    with _create(folder, target) as new:
        yield new
        try:
            new.rename(name, overwrite=force)
        except FileExistsError:
            raise UsageError(f"{name} was created meanwhile; lensd left it as it is") from None


def write_text(target: str, text: str, *, force: bool) -> None:
    """Write a text file. Raises UsageError and StorageError."""
    with staged("", target, force=force) as new:
        try:
            new.write(text.encode("utf-8", "backslashreplace"))
            new.sync()
        except (OSError, Failed) as error:
            raise _unwritable(target, error, "free space or choose another place") from None


def require_free(source: str, target: str, *, force: bool) -> None:
    """Raises UsageError where `target` may not be written, before work is put into it."""
    if not os.path.exists(target):
        return
    if os.path.isdir(target):
        raise UsageError(f"{target} is a folder; give the name of the file to write")
    if not os.path.isfile(target):  # the rename would put a file in the place of e.g. /dev/null
        raise UsageError(f"{target} is a device or a pipe; give the name of a file to write")
    if os.path.exists(source) and os.path.samefile(source, target):
        raise UsageError(f"{target} is the input; lensd never writes over it")
    if not force:
        raise UsageError(f"{target} exists; --force writes over it, or give another name")


def _create(folder: str, target: str) -> Temporary:
    try:
        return Temporary(folder, mode=0o666)
    except (OSError, Failed) as error:
        remedy = "name another path after -o, --html or --plot"
        raise _unwritable(target, error, remedy) from None


def _unwritable(target: str, error: OSError | Failed, remedy: str) -> StorageError:
    why = error.strerror if isinstance(error, OSError) else error
    return StorageError(f"{target} cannot be written: {why}; {remedy}")
