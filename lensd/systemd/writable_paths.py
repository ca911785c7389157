"""Choose the folders that the unit opens for writing, and find the mounts that it needs. No I/O.

Each ReadWritePaths= entry becomes a mount of its own inside the unit. So a hard link works only
between two paths below one entry, and lensd sees that a disk is unmounted only if no entry is on
that disk: the entry must be a folder *above* the mount point.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lensd.config.model import Config
from lensd.errors import ConfigError
from lensd.store.mounts import mount_of
from lensd.store.paths import is_below
from lensd.systemd.syntax import is_expressible

# The unit's StateDirectory= and LogsDirectory=, which systemd makes writable.
OWN_FOLDERS = ("/var/lib/lensd", "/var/log/lensd")


@dataclass(frozen=True, slots=True)
class ServicePaths:
    """The folders that the service uses, as absolute paths without symbolic links."""

    watched: tuple[str, ...]  # that lensd writes to
    archive: str
    state_and_log: tuple[str, ...]  # the state folder, and the folder of the log file
    analyzed: tuple[str, ...] = ()  # watched folders that lensd only reads
    metrics: tuple[str, ...] = ()  # the folder of the textfile, which lensd can do without

    @classmethod
    def of(cls, config: Config) -> ServicePaths:
        log = () if config.log.path is None else (os.path.dirname(config.log.path),)
        textfile = config.metrics.textfile
        writes = {watch.root: watch.settings.mode != "analyze" for watch in config.watch}
        return cls(
            watched=tuple(root for root, writing in writes.items() if writing),
            archive=os.path.realpath(config.archive.path),
            state_and_log=tuple(os.path.realpath(path) for path in (config.state.path, *log)),
            analyzed=tuple(root for root, writing in writes.items() if not writing),
            metrics=() if textfile is None else (os.path.realpath(os.path.dirname(textfile)),),
        )

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.watched, self.archive, *self.state_and_log, *self.analyzed, *self.metrics)


def read_write_paths(paths: ServicePaths, mounts: Sequence[str]) -> list[str]:
    """Return the folders for ReadWritePaths=: as far as possible one above each mount point."""
    folders = []
    by_mount: dict[str, list[str]] = {}
    for path in (*paths.watched, paths.archive):
        by_mount.setdefault(mount_of(path, mounts), []).append(path)
    for mount, on_mount in by_mount.items():
        folders += [_folder_above(mount)] if mount != "/" else _parents_on_root_disk(on_mount)
    for path in paths.state_and_log:
        mount = mount_of(path, mounts)
        folders.append(path if mount == "/" else _folder_above(mount))
    folders = [
        path for path in map(_expressible_folder, folders) if not outermost(path, OWN_FOLDERS)
    ]
    return sorted({path for path in folders if outermost(path, folders) == path})


def optional_read_write_paths(paths: ServicePaths, mounts: Sequence[str]) -> list[str]:
    """Return further folders for ReadWritePaths=, which may be missing when the unit starts."""
    opened = (*read_write_paths(paths, mounts), *OWN_FOLDERS)
    return [_expressible_folder(path) for path in paths.metrics if not outermost(path, opened)]


def outermost(path: str, folders: Iterable[str]) -> str | None:
    """Return the outermost of the folders that contain a path; None if none does."""
    return min((f for f in folders if is_below(path, f)), key=len, default=None)


def folders_without_links(paths: ServicePaths, mounts: Sequence[str]) -> list[str]:
    """Return watched folders on the archive's disk whose files the unit cannot link to it."""
    opened = (*read_write_paths(paths, mounts), *OWN_FOLDERS)
    archive_mount = mount_of(paths.archive, mounts)
    archive_entry = outermost(paths.archive, opened)
    return [
        path
        for path in paths.watched
        if mount_of(path, mounts) == archive_mount and outermost(path, opened) != archive_entry
    ]


def needed_mounts(paths: ServicePaths, mounts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the mount points that lensd always needs, and those that may be missing for a time."""
    required = {mount_of(path, mounts) for path in (paths.archive, *paths.state_and_log)} - {"/"}
    optional = {mount_of(path, mounts) for path in (*paths.watched, *paths.analyzed)}
    return sorted(required), sorted(optional - required - {"/"})


def _parents_on_root_disk(paths: Sequence[str]) -> list[str]:
    """Return the common parent of folders on the root disk; each folder's parent if that is /.

    A folder that is removed and created again is still below its parent.
    """
    parents = [os.path.dirname(path) for path in paths]
    common = os.path.commonpath(parents)
    if common != "/":
        return [common]
    # The entry / would make the whole system writable.
    return [path if parent == "/" else parent for path, parent in zip(paths, parents, strict=True)]


def _folder_above(mount: str) -> str:
    """Return the parent of a mount point, or the mount point itself if its parent is /."""
    parent = os.path.dirname(mount)
    return mount if parent == "/" else parent


def _expressible_folder(path: str) -> str:
    """Return the folder, or the nearest folder around it, whose name a unit file can contain.

    Raises ConfigError if that is /.
    """
    folder = path
    while not is_expressible(folder):
        folder = os.path.dirname(folder)
    if folder == "/":
        raise ConfigError(
            f"a unit file cannot contain the path {path!r}, and opening / instead would make the "
            "whole system writable; give the folder a name in UTF-8, or use a folder inside one "
            "that has such a name"
        )
    return folder
