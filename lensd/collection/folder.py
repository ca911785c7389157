"""A collection in a folder of this machine."""

from __future__ import annotations

import datetime as dt
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress

from lensd.collection.item import Item, Version, is_wanted
from lensd.errors import StorageError
from lensd.store.fs import temporary_name
from lensd.store.hashing import chunks
from lensd.store.staging import Temporary
from lensd.store.walk import walk

# A name that is not there, or a link to nothing or to itself.
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class Folder:
    """`path` need not exist, as a destination."""

    has_file_permissions = True

    def __init__(self, path: str) -> None:
        self.url = os.path.realpath(path)
        self.left_out: list[str] = []

    def real_url(self) -> str:
        return self.url

    def prepare(self) -> None:
        _make_folder(self.url)
        if not os.access(self.url, os.W_OK | os.X_OK):
            raise PermissionError(f"lensd may not write to {self.url}")

    def find(self) -> Iterator[Item]:
        """All files, also by links, but not by links to folders, nor in folders of lensd."""
        try:
            for folder in walk(
                self.url,
                recursive=True,
                wanted=lambda path, _: is_wanted(path),
                on_unreadable=self._note_unreadable,
            ):
                for name in folder.names:
                    version = _find_version(name, folder.fd)
                    if version is not None:
                        yield Item(folder.path + name, version)
        except OSError as error:
            raise StorageError(f"{self.url} cannot be read: {error.strerror}") from None

    def version(self, name: str) -> Version | None:
        try:
            return _version_of(os.stat(self._path(name)))
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise

    def fetch(self, name: str, folder: str) -> str:
        """The real path: the worker process opens no links."""
        del folder
        return os.path.realpath(self._path(name))

    def publish(self, name: str, path: str, token: str, *, replace: bool) -> None:
        folder, base = os.path.split(self._path(name))
        _make_folder(folder)
        if not replace and os.path.lexists(self._path(name)):
            raise FileExistsError(self._path(name))
        temporary = temporary_name(token)
        with suppress(FileNotFoundError):  # of a run that was killed
            os.unlink(os.path.join(folder, temporary))
        with Temporary(folder, temporary, mode=0o666) as new, open(path, "rb") as file:
            for chunk in chunks(file.fileno()):
                new.write(chunk)
            new.sync()
            new.rename(base, overwrite=replace)

    def _note_unreadable(self, folder: str, error: OSError) -> None:
        self.left_out.append(f"{self._path(folder)} cannot be read: {error.strerror}")

    def _path(self, name: str) -> str:
        return os.path.join(self.url, name)


def _make_folder(folder: str) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(f"{folder} is no folder") from None


def _find_version(name: str, folder_fd: int) -> Version | None:
    """As `Folder.version`, of a name in an open folder.

    An object that cannot be examined has a version too, as one of many must not end the run: its
    task fails, and names the error.
    """
    try:
        return _version_of(os.stat(name, dir_fd=folder_fd))
    except OSError as error:
        return None if error.errno in _ABSENT else Version(0)


def _version_of(found: os.stat_result) -> Version | None:
    """None for what is no file."""
    if not stat.S_ISREG(found.st_mode):
        return None
    return Version(found.st_size, None, text_of_time(found.st_mtime_ns))


def text_of_time(nanoseconds: int) -> str:
    """In ISO 8601, or as seconds for a year that it does not have."""
    seconds, micros = nanoseconds // 10**9, nanoseconds // 1000 % 10**6
    try:
        changed = dt.datetime.fromtimestamp(seconds, dt.UTC)
    except (ValueError, OverflowError, OSError):
        return f"@{seconds}.{micros:06}"
    return changed.replace(microsecond=micros).isoformat()
