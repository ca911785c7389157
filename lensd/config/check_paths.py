"""Check the configured folders and files on the disk, without changing anything."""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING

from lensd.errors import StorageError
from lensd.store.deadline import answers
from lensd.store.ledger import Ledger
from lensd.store.mounts import read_mounts
from lensd.store.overlaps import find_overlap
from lensd.store.walk import linked_folders
from lensd.text import printable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from lensd.config.faults import Fault
    from lensd.config.model import Config, Watch


def check_folders(config: Config, may_be_missing: Collection[str] = ()) -> list[Fault]:
    """Return all faults: paths that are missing, not writable, or one inside another.

    The roots in `may_be_missing` may also be on a disk that is read-only now, or does not answer.
    """
    answering = [watch for watch in config.watch if answers(watch.root)]
    faults = [
        _no_answer(config, watch)
        for watch in config.watch
        if watch not in answering and watch.root not in may_be_missing
    ]
    faults += [
        fault
        for watch in answering
        if not (watch.root in may_be_missing and _is_missing_or_read_only(watch))
        for fault in _check_watch(config, watch)
    ]
    faults += _check_overlaps(config, answering)
    faults += _check_other_paths(config, answering)
    return faults


def known_roots(config: Config) -> frozenset[str]:
    """Return the watched folders that the ledger knows; `lensd run` waits for their disks."""
    try:
        with Ledger.read_only(config.state.path) as ledger:
            return frozenset(w.root for w in config.watch if ledger.roots.knows(w.root))
    except (StorageError, sqlite3.Error):  # no ledger yet; or a fault that starting lensd reports
        return frozenset()


def folder_warnings(config: Config) -> list[Fault]:
    """Return a warning for each symbolic link to a folder in a watched folder.

    lensd does not follow these links.
    """
    remedy = "to watch its target too, add the target to `watch`: `- path: {}`"
    return [
        config.fault(
            f"{watch.key}.path",
            f"{printable(link)} is a symbolic link to a folder, which lensd does not follow",
            remedy.format(printable(os.path.realpath(link))),
        )
        for watch in config.watch
        for link in symlinked_folders(watch)
    ]


def symlinked_folders(watch: Watch) -> list[str]:
    """Return absolute paths of the symbolic links to folders in a watched folder, sorted."""
    if not watch.recursive:
        return []
    try:
        return sorted(os.path.join(watch.root, link) for link in linked_folders(watch.root))
    except OSError:  # another fault says that the folder cannot be read
        return []


def _is_missing_or_read_only(watch: Watch) -> bool:
    try:
        return bool(os.statvfs(watch.root).f_flag & os.ST_RDONLY)
    except OSError:
        return not os.path.lexists(watch.root)


def _check_watch(config: Config, watch: Watch) -> Iterator[Fault]:
    key = f"{watch.key}.path"
    if not os.path.lexists(watch.root):
        remedy = f"correct the path, mount its disk, or create it: mkdir -p '{watch.path}'"
        yield config.fault(key, f"there is no folder {watch.path}", remedy)
    elif not os.path.isdir(watch.root):
        yield config.fault(key, f"{watch.path} is not a folder", "write the path of a folder")
    elif not _may(watch.root, os.R_OK | os.X_OK):
        yield config.fault(key, f"lensd cannot read {watch.path}", _rights_remedy(watch.path))
    elif watch.settings.mode != "analyze" and not _may(watch.root, os.W_OK):
        remedy = f"{_rights_remedy(watch.path)}; or write `mode: analyze`, which changes no file"
        yield config.fault(key, f"lensd cannot write to {watch.path}", remedy)


def _no_answer(config: Config, watch: Watch) -> Fault:
    remedy = "start its server again, or unmount the folder: umount -l"
    message = f"the filesystem of {watch.path} does not answer"
    return config.fault(f"{watch.key}.path", message, remedy)


def _check_overlaps(config: Config, watches: Sequence[Watch]) -> Iterator[Fault]:
    for index, watch in enumerate(watches):
        for other in watches[:index]:
            if is_inside(watch.root, other.root) or is_inside(other.root, watch.root):
                message = f"{watch.path} and {other.path} ({other.key}) are one inside the other"
                remedy = "watch only the outer one, which includes the other"
                yield config.fault(f"{watch.key}.path", message, remedy)
            elif (shown := _find_overlap(watch.root, other.root)) is not None:
                message = f"{shown} shows files of {other.path} ({other.key})"
                remedy = "watch only one of the two, or unmount one"
                yield config.fault(f"{watch.key}.path", message, remedy)


def _check_other_paths(config: Config, watches: Sequence[Watch]) -> Iterator[Fault]:
    """Check archive, state, log and metrics."""
    archive, state = config.archive.path, config.state.path
    for key, path in (("archive.path", archive), ("state.path", state)):
        yield from _check_nesting(config, watches, key, path)
        yield from _check_writable(config, key, path)
    if is_inside(state, archive):
        message = f"the state folder {state} is inside the archive {archive}"
        yield config.fault("state.path", message, "write a folder outside the archive")
    if config.log.path is not None:
        yield from _check_log(config, config.log.path)
    if config.metrics.textfile is not None:
        yield from _check_textfile(config, watches, config.metrics.textfile)


def _check_nesting(
    config: Config, watches: Sequence[Watch], key: str, path: str
) -> Iterator[Fault]:
    name = {"archive.path": "archive", "state.path": "state folder"}[key]
    for watch in watches:
        if is_inside(path, watch.root):
            message = f"the {name} {path} is inside the watched folder {watch.path}"
            remedy = "write a folder outside it: other programs would list the files in it"
            yield config.fault(key, message, remedy)
        elif is_inside(watch.root, path):
            message = f"the watched folder {watch.path} is inside the {name} {path}"
            yield config.fault(f"{watch.key}.path", message, f"change this path or {key}")
        elif (shown := _find_overlap(watch.root, path)) is not None:
            message = f"{shown} shows the {name} {path} in the watched folder {watch.path}"
            remedy = f"unmount one of the two (`findmnt {printable(shown)}`), or change {key}"
            yield config.fault(key, message, remedy)


def _check_log(config: Config, path: str) -> Iterator[Fault]:
    if os.path.isdir(path):
        remedy = f"write the path of a file, e.g. {path}/lensd.log"
        yield config.fault("log.path", f"{path} is a folder", remedy)
    elif os.path.exists(path) and not _may(path, os.W_OK):
        yield config.fault("log.path", f"lensd cannot write to {path}", _rights_remedy(path))
    else:
        yield from _check_writable(config, "log.path", os.path.dirname(path))


def _check_textfile(config: Config, watches: Sequence[Watch], path: str) -> Iterator[Fault]:
    """Check the textfile, whose folder must exist: it belongs to another program."""
    key, folder = "metrics.textfile", os.path.dirname(path)
    remedy = "write a path in the folder that node_exporter's --collector.textfile.directory names"
    for name, outer in (
        *(("watched folder", watch.root) for watch in watches),
        ("archive", config.archive.path),
    ):
        if is_inside(path, outer):
            yield config.fault(key, f"{path} is inside the {name} {outer}", remedy)
            return
    if os.path.isdir(path):
        example = f"{path}/lensd.prom"
        yield config.fault(key, f"{path} is a folder", f"write the path of a file, e.g. {example}")
    elif not os.path.isdir(folder):
        yield config.fault(key, f"there is no folder {folder}", f"{remedy}; or mkdir -p '{folder}'")
    elif not _can_create_file(folder, try_named_file=True):
        yield config.fault(key, f"lensd cannot write to {folder}", _rights_remedy(folder))


def _check_writable(config: Config, key: str, folder: str) -> Iterator[Fault]:
    """Check that lensd can create a file in a folder that exists, or else the folder itself."""
    existing = folder
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    if not os.path.isdir(existing):
        yield config.fault(key, f"{existing} is not a folder", "write another path")
    elif not _can_create_file(existing, try_named_file=existing == folder):
        action = "write to" if existing == folder else "create"
        inside = "" if existing == folder else f" in {existing}"
        message = f"lensd cannot {action} {folder}{inside}"
        yield config.fault(key, message, _rights_remedy(existing))


def _can_create_file(folder: str, *, try_named_file: bool) -> bool:
    """Whether a file can be created in a folder, by opening a file without a name.

    On disks without such files, create and remove a named file if `try_named_file`, which lensd
    does only in its own folders; else look at the access rights.
    """
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    except OSError:
        if try_named_file:
            return _can_create_named_file(folder)
        return _may(folder, os.W_OK | os.X_OK)
    return True


def _may(path: str, mode: int) -> bool:
    """As os.access, with the capabilities of this process, which that leaves out."""
    return os.access(path, mode, effective_ids=True)


def _can_create_named_file(folder: str) -> bool:
    probe = os.path.join(folder, f".lensd-probe-{os.getpid()}")
    try:
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        os.unlink(probe)
    except OSError:
        return False
    return True


def is_inside(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or below it, also through symbolic links and bind mounts."""
    path, folder = os.path.realpath(path), os.path.realpath(folder)
    inode = _device_and_inode(folder)
    while True:
        if path == folder or (inode is not None and _device_and_inode(path) == inode):
            return True
        parent = os.path.dirname(path)
        if parent == path:
            return False
        path = parent


def _find_overlap(folder: str, other: str) -> str | None:
    """The path in a folder at which a mount shows files of another one."""
    return find_overlap(os.path.realpath(folder), os.path.realpath(other), read_mounts())


def _device_and_inode(path: str) -> tuple[int, int] | None:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def _rights_remedy(path: str) -> str:
    return f"give user {os.geteuid()} access, e.g. sudo chown -R {os.geteuid()} '{path}'"
