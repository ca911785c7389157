"""What the drop-in has to know of the machine: mounts, owners, names, the program itself."""

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
from lensd.systemd.mounts import mount_points

Owner = tuple[int, int]  # uid, gid


@dataclass(frozen=True, slots=True)
class Facts:
    """`owners`: of the files in each watched folder, by its root; how many files each has."""

    mounts: tuple[str, ...]
    owners: Mapping[str, Counter[Owner]]
    users: Mapping[int, str]
    groups: Mapping[int, str]
    missing: frozenset[str]  # of archive and state, what is not there yet
    python: str
    program: tuple[str, ...]  # what the service has to read besides the configuration
    nvidia: bool
    closed: tuple[str, str] | None = None  # on the program's way: folder, and who alone may enter


def probe(config: Config) -> Facts:
    """Look at the machine; nothing is changed."""
    owners = {watch.root: Counter(_owners(watch)) for watch in config.watch}
    pairs = set().union(*owners.values())
    keeping = (config.archive.path, config.state.path)
    program = (sys.executable, sys.base_prefix, os.path.dirname(lensd.__path__[0]))
    return Facts(
        mounts=mount_points(Path("/proc/self/mountinfo").read_bytes()),
        owners=owners,
        users={uid: _user_name(uid) for uid, _ in pairs},
        groups={gid: _group_name(gid) for _, gid in pairs},
        missing=frozenset(path for path in keeping if not os.path.lexists(path)),
        python=sys.executable,
        program=program,
        nvidia=os.path.exists("/dev/nvidiactl"),
        closed=next((found for path in program for found in _closed(path)), None),
    )


def _owners(watch: Watch) -> Iterator[Owner]:
    """Of each file that lensd would look at; of the folder itself where it has none."""
    found = False
    for where, folders, names in os.walk(watch.root):
        if not watch.recursive:
            folders.clear()
        for name in names:
            path = os.path.join(where, name)
            if watch.selects(os.path.relpath(path, watch.root)):
                found = True
                yield from _owner(path)
    if not found:
        yield from _owner(watch.root)


def _owner(path: str) -> Iterator[Owner]:
    try:
        there = os.lstat(path)
    except OSError:  # gone meanwhile, or a folder that is not there
        return
    yield there.st_uid, there.st_gid


def _closed(path: str) -> Iterator[tuple[str, str]]:
    """Folders above a program that others may not enter."""
    for folder in reversed(Path(os.path.realpath(path)).parents):
        there = folder.stat()
        if not there.st_mode & stat.S_IXOTH:
            yield str(folder), _user_name(there.st_uid)


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # files from a NAS or a container: a number does as well
        return str(uid)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
