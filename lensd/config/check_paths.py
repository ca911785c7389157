"""Whether the configured folders are fit for use: looks, and leaves nothing behind."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from lensd.errors import StorageError
from lensd.store.ledger import Ledger
from lensd.text import printable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from lensd.config.faults import Fault
    from lensd.config.model import Config, Watch


def check_folders(config: Config, awaited: Collection[str] = ()) -> list[Fault]:
    """Every fault of the file system at once: missing, not writable, or one inside another.

    `awaited` roots may be missing or on a disk that cannot be written now.
    """
    found = [
        fault
        for watch in config.watch
        if not (watch.root in awaited and _is_away(watch))
        for fault in _watch_faults(config, watch)
    ]
    found += _overlaps(config)
    found += _keeping_faults(config)
    return found


def known_roots(config: Config) -> frozenset[str]:
    """The watched folders that lensd has seen before: `run` waits for a disk that is not there."""
    try:
        with closing(Ledger(config.state.path, "", readonly=True)) as ledger:
            return frozenset(w.root for w in config.watch if ledger.roots.knows(w.root))
    except (StorageError, sqlite3.Error):  # there is none yet, or opening it will tell
        return frozenset()


def folder_warnings(config: Config) -> list[Fault]:
    """Symbolic links to folders inside watched folders: lensd does not enter them."""
    remedy = "watch where it points to as an entry of its own: `- path: {}`"
    return [
        config.fault(
            f"{watch.key}.path",
            f"{printable(link)} is a symbolic link to a folder and is not entered",
            remedy.format(printable(os.path.realpath(link))),
        )
        for watch in config.watch
        for link in symlinked_folders(watch)
    ]


def symlinked_folders(watch: Watch) -> list[str]:
    """Absolute paths of the symbolic links to folders below a watched folder's root, sorted."""
    return sorted(_links(watch.root)) if watch.recursive else []


def _links(folder: str) -> Iterator[str]:
    for where, folders, _ in os.walk(folder):
        for name in folders:
            path = os.path.join(where, name)
            if os.path.islink(path):
                yield path


def _is_away(watch: Watch) -> bool:
    try:
        return bool(os.statvfs(watch.root).f_flag & os.ST_RDONLY)
    except OSError:
        return not os.path.lexists(watch.root)


def _watch_faults(config: Config, watch: Watch) -> Iterator[Fault]:
    key = f"{watch.key}.path"
    if not os.path.lexists(watch.root):
        remedy = f"correct the path, mount its disk, or create it: mkdir -p '{watch.path}'"
        yield config.fault(key, f"there is no folder {watch.path}", remedy)
    elif not os.path.isdir(watch.root):
        yield config.fault(key, f"{watch.path} is not a folder", "write the folder's path")
    elif not os.access(watch.root, os.R_OK | os.X_OK):
        yield config.fault(key, f"{watch.path} cannot be read", _rights_remedy(watch.path))
    elif watch.settings.mode != "analyze" and not os.access(watch.root, os.W_OK):
        remedy = f"{_rights_remedy(watch.path)}; or `mode: analyze`, which changes nothing"
        yield config.fault(key, f"{watch.path} cannot be written", remedy)


def _overlaps(config: Config) -> Iterator[Fault]:
    for place, watch in enumerate(config.watch):
        for other in config.watch[:place]:
            if is_inside(watch.root, other.root) or is_inside(other.root, watch.root):
                message = f"{watch.path} and {other.key}'s {other.path} lie one inside the other"
                remedy = "watch only the outer one; it covers both"
                yield config.fault(f"{watch.key}.path", message, remedy)


def _keeping_faults(config: Config) -> Iterator[Fault]:
    archive, state = config.archive.path, config.state.path
    for key, path in (("archive.path", archive), ("state.path", state)):
        yield from _nesting(config, key, path)
        yield from _unwritable(config, key, path)
    if is_inside(state, archive):
        message = f"{state} lies inside the archive {archive}"
        yield config.fault("state.path", message, "write a folder outside it")
    if config.log.path is not None:
        yield from _log_faults(config, config.log.path)
    if config.metrics.textfile is not None:
        yield from _textfile_faults(config, config.metrics.textfile)


def _nesting(config: Config, key: str, path: str) -> Iterator[Fault]:
    kind = key.partition(".")[0]
    for watch in config.watch:
        if is_inside(path, watch.root):
            message = f"the {kind} {path} lies inside the watched folder {watch.path}"
            remedy = "programs would list what is in it: write a folder outside"
            yield config.fault(key, message, remedy)
        elif is_inside(watch.root, path):
            message = f"the watched folder {watch.path} lies inside the {kind} {path}"
            yield config.fault(f"{watch.key}.path", message, f"move one of them; see {key}")


def _log_faults(config: Config, path: str) -> Iterator[Fault]:
    if os.path.isdir(path):
        remedy = f"write a file's path, e.g. {path}/lensd.log"
        yield config.fault("log.path", f"{path} is a folder", remedy)
    elif os.path.exists(path) and not os.access(path, os.W_OK):
        yield config.fault("log.path", f"{path} cannot be written", _rights_remedy(path))
    else:
        yield from _unwritable(config, "log.path", os.path.dirname(path))


def _textfile_faults(config: Config, path: str) -> Iterator[Fault]:
    """Its folder is another program's, so it is not created."""
    key, folder = "metrics.textfile", os.path.dirname(path)
    remedy = "write it into the folder of node_exporter's --collector.textfile.directory"
    for kind, place in (*(("watched folder", w.root) for w in config.watch), _archive(config)):
        if is_inside(path, place):
            yield config.fault(key, f"{path} lies inside the {kind} {place}", remedy)
            return
    if os.path.isdir(path):
        yield config.fault(key, f"{path} is a folder", f"write a file's path: {path}/lensd.prom")
    elif not os.path.isdir(folder):
        yield config.fault(key, f"there is no folder {folder}", f"{remedy}; or mkdir -p '{folder}'")
    elif not _takes_files(folder, ours=True):
        yield config.fault(key, f"{folder} cannot be written", _rights_remedy(folder))


def _archive(config: Config) -> tuple[str, str]:
    return "archive", config.archive.path


def _unwritable(config: Config, key: str, folder: str) -> Iterator[Fault]:
    """A folder that is there must take a file; one that is not must be possible to create."""
    there = folder
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    if not os.path.isdir(there):
        yield config.fault(key, f"{there} is not a folder", "write another path")
    elif not _takes_files(there, ours=there == folder):
        verb = "written" if there == folder else f"created in {there}"
        yield config.fault(key, f"{folder} cannot be {verb}", _rights_remedy(there))


def _takes_files(folder: str, *, ours: bool) -> bool:
    """Open a file without a name in it, which leaves nothing behind.

    Where the disk has no such files: one with a name in a folder of ours, else ask for the rights.
    """
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    except OSError:
        return _takes_named_file(folder) if ours else os.access(folder, os.W_OK | os.X_OK)
    return True


def _takes_named_file(folder: str) -> bool:
    probe = os.path.join(folder, f".lensd-probe-{os.getpid()}")
    try:
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        os.unlink(probe)
    except OSError:
        return False
    return True


def is_inside(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or below it, through symbolic links and bind mounts."""
    path, folder = os.path.realpath(path), os.path.realpath(folder)
    identity = _identity(folder)
    while True:
        if path == folder or (identity is not None and _identity(path) == identity):
            return True
        parent = os.path.dirname(path)
        if parent == path:
            return False
        path = parent


def _identity(path: str) -> tuple[int, int] | None:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def _rights_remedy(path: str) -> str:
    return f"give user {os.geteuid()} the rights, e.g. sudo chown -R {os.geteuid()} '{path}'"
