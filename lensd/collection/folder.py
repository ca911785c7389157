"""A collection in a folder of this machine."""

from __future__ import annotations

import datetime as dt
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


class Folder:
    """`path` need not exist, as a destination."""

    def __init__(self, path: str) -> None:
        self.url = os.path.realpath(path)

    def find(self) -> Iterator[Item]:
        """All files, also by links, but not by links to folders, nor in folders of lensd."""
        try:
            for folder in walk(self.url, recursive=True, wanted=lambda path, _: is_wanted(path)):
                for name in folder.names:
                    with suppress(FileNotFoundError):  # deleted, or a link to nothing
                        found = os.stat(name, dir_fd=folder.fd)
                        if stat.S_ISREG(found.st_mode):
                            yield Item(folder.path + name, _version_of(found))
        except OSError as error:
            raise StorageError(f"{self.url} cannot be read: {error.strerror}") from None

    def version(self, name: str) -> Version | None:
        try:
            return _version_of(os.stat(self._path(name)))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def fetch(self, name: str, folder: str) -> str:
        """The real path: the worker process opens no links."""
        del folder
        return os.path.realpath(self._path(name))

    def publish(self, name: str, path: str, token: str, *, replace: bool) -> None:
        folder, base = os.path.split(self._path(name))
        try:
            os.makedirs(folder, exist_ok=True)
        except FileExistsError:
            raise NotADirectoryError(f"{folder} is no folder") from None
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

    def _path(self, name: str) -> str:
        return os.path.join(self.url, name)


def _version_of(found: os.stat_result) -> Version:
    changed = dt.datetime.fromtimestamp(found.st_mtime_ns // 10**9, dt.UTC)
    micros = found.st_mtime_ns // 1000 % 10**6
    return Version(found.st_size, None, changed.replace(microsecond=micros).isoformat())
