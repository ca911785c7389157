"""The facts about the machine that the drop-in depends on: mounts, owners, names, the program."""

from __future__ import annotations

import grp
import os
import pwd
import stat
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import lensd
from lensd.config.model import Config, Watch
from lensd.store.mounts import read_mounts

Owner = tuple[int, int]  # uid, gid


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts about the machine and the files of a configuration."""

    mounts: tuple[str, ...]  # mount points
    owners: Mapping[str, Counter[Owner]]  # root of a watched folder -> owner -> number of files
    users: Mapping[int, str]  # names by number
    groups: Mapping[int, str]
    missing: frozenset[str]  # those of archive and state that do not exist yet
    python: str  # path of the interpreter
    # What the service must read, besides the configuration: python, its base_prefix, lensd.
    program: tuple[str, ...]
    nvidia: bool  # whether there is an NVIDIA GPU
    # A folder above the program that only its owner may enter, and the name of the owner.
    private_folder: tuple[str, str] | None = None


def probe(config: Config) -> Facts:
    """Read the facts from the machine, without changing anything."""
    owners = {watch.root: Counter(_find_owners(watch)) for watch in config.watch}
    pairs = set().union(*owners.values())
    own_paths = (config.archive.path, config.state.path)
    return Facts(
        mounts=tuple(mount.path for mount in read_mounts()),
        owners=owners,
        users={uid: _user_name(uid) for uid, _ in pairs},
        groups={gid: _group_name(gid) for _, gid in pairs},
        missing=frozenset(path for path in own_paths if not os.path.lexists(path)),
        python=sys.executable,
        program=_program_paths(),
        nvidia=os.path.exists("/dev/nvidiactl"),
        private_folder=find_private_folder(),
    )


def find_private_folder() -> tuple[str, str] | None:
    """Return a folder above the program that only its owner may enter, and the owner's name."""
    return next((f for path in _program_paths() for f in _find_private_folders(path)), None)


def _program_paths() -> tuple[str, ...]:
    return sys.executable, sys.base_prefix, os.path.dirname(lensd.__path__[0])


def _find_owners(watch: Watch) -> Iterator[Owner]:
    """Yield the owner of each file that the watch selects; that of the folder if there is none."""
    has_files = False
    for folder, subfolders, names in os.walk(watch.root):
        if not watch.recursive:
            subfolders.clear()
        for name in names:
            path = os.path.join(folder, name)
            if watch.selects(os.path.relpath(path, watch.root)):
                has_files = True
                yield from _owner_if_exists(path)
    if not has_files:
        yield from _owner_if_exists(watch.root)


def _owner_if_exists(path: str) -> Iterator[Owner]:
    try:
        status = os.lstat(path)
    except OSError:  # a file that was deleted meanwhile, or a missing folder
        return
    yield status.st_uid, status.st_gid


def _find_private_folders(path: str) -> Iterator[tuple[str, str]]:
    """Yield folders above a path that other users may not enter, and the names of their owners."""
    for folder in reversed(Path(os.path.realpath(path)).parents):
        status = folder.stat()
        if not status.st_mode & stat.S_IXOTH:
            yield str(folder), _user_name(status.st_uid)


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # files of a NAS or a container may have no user here; systemd takes numbers
        return str(uid)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
