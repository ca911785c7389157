"""Folders that mirror others: in the archive those of the watched folders, and back at a restore.

A folder that lensd makes has owner, group, ACLs and mode of the folder that it mirrors. Where lensd
may not set them all, it is less open, never more.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from lensd.errors import Skipped
from lensd.store.archive import naming
from lensd.store.attributes import copy_folder_rights, is_more_open
from lensd.store.disk_errors import disk_faults
from lensd.store.fs import enter_folder, fsync_folder, open_folder


class Model(NamedTuple):
    """A folder that another one mirrors: a path below a root."""

    root: str
    relative: str = ""

    def stat(self) -> os.stat_result | None:
        """None where there is no such folder."""
        try:
            return os.stat(os.path.join(self.root, self.relative))
        except OSError:
            return None

    def open(self) -> int | None:
        """None where there is no such folder, or a link has its name."""
        try:
            return open_folder(self.root, self.relative)
        except (OSError, Skipped):
            return None


def enter_mirrored(folder_fd: int, name: str, models: Iterable[Model]) -> int:
    """Enter a folder. It is made if it is missing, with the rights of the first model there is.

    Without a model only its owner may enter it. A folder that is there already loses what the
    first model does not permit. Raises Skipped(`symlink`), Failed(`no_space` | `io_error`).
    """
    try:
        fd = enter_folder(folder_fd, name)
    except FileNotFoundError:
        return make_mirrored(folder_fd, name, models)
    with disk_faults(fd):
        for model in models:
            _tighten(fd, model)
            break
    return fd


def make_mirrored(folder_fd: int, name: str, models: Iterable[Model]) -> int:
    """Make and enter a folder, durably, with the rights of the first model there is."""
    with disk_faults(folder_fd):
        try:
            os.mkdir(name, 0o700, dir_fd=folder_fd)
        except FileExistsError:
            return enter_folder(folder_fd, name)
        fd = enter_folder(folder_fd, name)
        try:
            _copy_rights(fd, models)
            fsync_folder(folder_fd)
        except BaseException:
            os.close(fd)
            raise
    return fd


def mirror_back(root: str, folder: str, original: str) -> int:
    """Open a folder below a watched folder. Missing folders are made, with the rights of those in
    the archive that `original` lies in, or else with those of the folder above.

    Raises FileNotFoundError without the root, Skipped(`symlink`), Failed(`no_space` | `io_error`).
    """
    parts = folder.split("/") if folder else []
    lies_in = os.path.dirname(original)
    decoded = naming.decode(lies_in)
    is_mirror = decoded.endswith(f"/{folder}") and decoded.count("/") == lies_in.count("/")
    folder_fd = open_folder(root, "")
    try:
        for count, part in enumerate(parts, 1):
            models = [Model(root, "/".join(parts[: count - 1]))]
            if is_mirror:
                models.insert(0, Model(os.path.join(lies_in, *[".."] * (len(parts) - count))))
            above, folder_fd = folder_fd, _enter_or_make(folder_fd, part, models)
            os.close(above)
    except BaseException:
        os.close(folder_fd)
        raise
    return folder_fd


def _enter_or_make(folder_fd: int, name: str, models: Iterable[Model]) -> int:
    try:
        return enter_folder(folder_fd, name)
    except FileNotFoundError:
        return make_mirrored(folder_fd, name, models)


def _copy_rights(fd: int, models: Iterable[Model]) -> None:
    for model in models:
        model_fd = model.open()
        if model_fd is not None:
            try:
                copy_folder_rights(model_fd, fd)
            finally:
                os.close(model_fd)
            return


def _tighten(fd: int, model: Model) -> None:
    """An older lensd made the folder with fixed rights, or a person closed the watched one."""
    now, wanted = os.fstat(fd), model.stat()
    if wanted is None or not is_more_open(now, wanted):
        return
    model_fd = model.open()
    if model_fd is not None:
        try:
            copy_folder_rights(model_fd, fd, at_most=now.st_mode & 0o7777)
        finally:
            os.close(model_fd)
