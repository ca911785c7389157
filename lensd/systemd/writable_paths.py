"""Which folders the unit opens for writing, and on which mounts they lie. No I/O.

Every ReadWritePaths= entry becomes a mount of its own inside the unit. So a hard link works only
between paths below one and the same entry, and a disk's unmount is seen only if no entry lies on
that disk: its entry has to be a folder *above* its mount point.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lensd.config.model import Config
from lensd.errors import ConfigError
from lensd.store.paths import is_below
from lensd.systemd.mounts import mount_of
from lensd.systemd.syntax import is_expressible

# The unit's StateDirectory= and LogsDirectory=: systemd makes them writable by itself.
OWN = ("/var/lib/lensd", "/var/log/lensd")


@dataclass(frozen=True, slots=True)
class Places:
    """Absolute paths without links."""

    watched: tuple[str, ...]
    archive: str
    kept: tuple[str, ...]  # state, and the log's folder
    analyzed: tuple[str, ...] = ()  # watched, and never written to
    metrics: tuple[str, ...] = ()  # the textfile's folder: lensd works without it

    @classmethod
    def of(cls, config: Config) -> Places:
        log = () if config.log.path is None else (os.path.dirname(config.log.path),)
        textfile = config.metrics.textfile
        writing = {w.root: w.settings.mode != "analyze" for w in config.watch}
        return cls(
            watched=tuple(root for root, writes in writing.items() if writes),
            archive=os.path.realpath(config.archive.path),
            kept=tuple(os.path.realpath(path) for path in (config.state.path, *log)),
            analyzed=tuple(root for root, writes in writing.items() if not writes),
            metrics=() if textfile is None else (os.path.realpath(os.path.dirname(textfile)),),
        )

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.watched, self.archive, *self.kept, *self.analyzed, *self.metrics)


def entries(places: Places, points: Sequence[str]) -> list[str]:
    """The folders for ReadWritePaths=: one for each mount point, where there is such a one."""
    found = []
    by_mount: dict[str, list[str]] = {}
    for path in (*places.watched, places.archive):
        by_mount.setdefault(mount_of(path, points), []).append(path)
    for point, paths in by_mount.items():
        found += [_above(point)] if point != "/" else _on_root_disk(paths)
    for path in places.kept:
        point = mount_of(path, points)
        found.append(path if point == "/" else _above(point))
    found = [path for path in map(_expressible, found) if not covering(path, OWN)]
    return sorted({path for path in found if covering(path, found) == path})


def optional_entries(places: Places, points: Sequence[str]) -> list[str]:
    """Further folders for ReadWritePaths=, which may be missing at the start."""
    opened = (*entries(places, points), *OWN)
    return [_expressible(path) for path in places.metrics if not covering(path, opened)]


def covering(path: str, folders: Iterable[str]) -> str | None:
    """The outermost of the folders that a path lies in."""
    return min((f for f in folders if is_below(path, f)), key=len, default=None)


def copied(places: Places, points: Sequence[str]) -> list[str]:
    """Watched folders on the archive's own disk that no link reaches inside the unit."""
    opened = (*entries(places, points), *OWN)
    of_archive = (mount_of(places.archive, points), covering(places.archive, opened))
    return [
        path
        for path in places.watched
        if mount_of(path, points) == of_archive[0] and covering(path, opened) != of_archive[1]
    ]


def needed_mounts(places: Places, points: Sequence[str]) -> tuple[list[str], list[str]]:
    """Mount points that lensd cannot work without, and those that it can miss for a while."""
    must = {mount_of(path, points) for path in (places.archive, *places.kept)} - {"/"}
    may = {mount_of(path, points) for path in (*places.watched, *places.analyzed)} - must - {"/"}
    return sorted(must), sorted(may)


def _on_root_disk(paths: Sequence[str]) -> list[str]:
    """The folders' common parent: also a folder that is removed and made anew lies below it."""
    parents = [os.path.dirname(path) for path in paths]
    common = os.path.commonpath(parents)
    if common != "/":
        return [common]
    # `/` would open the whole system
    return [path if parent == "/" else parent for path, parent in zip(paths, parents, strict=True)]


def _above(point: str) -> str:
    parent = os.path.dirname(point)
    return point if parent == "/" else parent


def _expressible(path: str) -> str:
    """The folder itself, or the nearest one around it that a unit file can name."""
    around = path
    while not is_expressible(around):
        around = os.path.dirname(around)
    if around == "/":
        raise ConfigError(
            f"no unit file can name {path!r}, and opening / instead would open everything; give "
            "the folder a name in UTF-8, or one inside a folder that has such a name"
        )
    return around
