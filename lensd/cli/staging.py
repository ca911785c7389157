"""A new file beside its target, given the target's name only when it is whole."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from lensd.errors import StorageError, UsageError
from lensd.store.fs import fsync_folder, temporary_name
from lensd.store.rename import move_onto_free_name


class Staged(NamedTuple):
    """An empty file to fill."""

    path: str
    inode: tuple[int, int]


@contextmanager
def staged(source: str, target: str, *, force: bool) -> Iterator[Staged]:
    """A temporary that becomes `target` at the end of the block, or is gone if the block raises.

    Raises UsageError where `target` is `source`, or exists and `force` is not set; StorageError.
    """
    require_free(source, target, force=force)
    folder, name = os.path.split(os.path.abspath(target))
    path = os.path.join(folder, temporary_name(secrets.token_hex(8)))
    fd = _create(path, target)
    try:
        made = os.fstat(fd)
        yield Staged(path, (made.st_dev, made.st_ino))
        _give_name(folder, os.path.basename(path), name, force=force)
    except BaseException:
        if os.path.exists(path):
            os.unlink(path)
        raise
    finally:
        os.close(fd)


def write_text(target: str, text: str, *, force: bool) -> None:
    """A text file under its name whole, or not at all. Raises UsageError and StorageError."""
    with staged("", target, force=force) as new:
        try:
            with open(new.path, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(
                f"{target} cannot be written: {error.strerror}; free space or choose another place"
            ) from None


def require_free(source: str, target: str, *, force: bool) -> None:
    """Raises UsageError where `target` may not be written, before work is put into it."""
    if not os.path.exists(target):
        return
    if os.path.isdir(target):
        raise UsageError(f"{target} is a folder; give the name of the file to write")
    if os.path.exists(source) and os.path.samefile(source, target):
        raise UsageError(f"{target} is the input; lensd never writes over it")
    if not force:
        raise UsageError(f"{target} exists; --force writes over it, or give another name")


def _create(path: str, target: str) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise StorageError(
            f"{target} cannot be written: {error.strerror}; choose another place with -o "
            "(--html, --plot)"
        ) from None


def _give_name(folder: str, staged_name: str, name: str, *, force: bool) -> None:
    folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if force:
            os.replace(staged_name, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
        else:
            move_onto_free_name(folder_fd, staged_name, folder_fd, name)
        fsync_folder(folder_fd)
    except FileExistsError:
        raise UsageError(f"{name} has come to exist meanwhile; it was left alone") from None
    finally:
        os.close(folder_fd)
