"""Find out which paths a running lensd may write, with its mounts, user and groups.

The settings of a unit have effect only in the process that runs under them. So the paths are looked
up below /proc/PID/root, which has the mounts of that process, by a child process with its user and
groups.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

CAP_DAC_OVERRIDE = 1

# Why a path cannot be written. missing: the unit hides it. read_only: it is on a read-only mount of
# the unit. disk: its disk is read-only outside the unit too. rights: the user has no right to.
Denial = Literal["missing", "read_only", "disk", "rights"]


class NotAllowed(Exception):
    """Only root and the process's own user may look at its mounts."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process with the user and the groups that it runs with."""

    pid: int
    user: int
    groups: tuple[int, ...]  # all of them, the primary one first
    overrides: bool  # whether it has CAP_DAC_OVERRIDE, for which access modes do not matter

    @classmethod
    def of(cls, pid: int) -> Process:
        """Read a process's facts from /proc. Raises ProcessLookupError if it does not exist."""
        try:
            return cls._parse(pid, Path(f"/proc/{pid}/status").read_text())
        except FileNotFoundError:
            raise ProcessLookupError(pid) from None

    @classmethod
    def _parse(cls, pid: int, status: str) -> Process:
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        groups = (fields["Gid"].split()[1], *fields["Groups"].split())
        capabilities = int(fields["CapEff"], 16)
        return cls(
            pid=pid,
            user=int(fields["Uid"].split()[1]),
            groups=tuple(map(int, groups)),
            overrides=bool(capabilities >> CAP_DAC_OVERRIDE & 1),
        )


def denials(process: Process, paths: Sequence[str]) -> dict[str, Denial]:
    """Return path -> reason for those of these paths that the process may not write.

    The paths are folders and files, absolute and without symbolic links. Raises NotAllowed and
    ProcessLookupError.
    """
    if os.geteuid() not in (0, process.user):
        raise NotAllowed
    try:
        root = os.open(f"/proc/{process.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ProcessLookupError(process.pid) from None
    except PermissionError:  # it has more capabilities than this process, or other namespaces
        raise NotAllowed from None
    try:
        return _find_denials_in_child(process, root, paths)
    finally:
        os.close(root)


def _find_denials_in_child(process: Process, root: int, paths: Sequence[str]) -> dict[str, Denial]:
    """Change user in a child process, and read its result from a pipe.

    A process that has given up its user cannot get it back.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _take_identity_of(process)
            os.write(writing, json.dumps(dict(_find_denials(root, paths))).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with open(reading, "rb") as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if status:
        raise NotAllowed
    result: dict[str, Denial] = json.loads(text)
    return result


def _take_identity_of(process: Process) -> None:
    """Become the user and the groups of a process, if this is root and that makes a difference."""
    if os.geteuid() != 0 or process.overrides:
        return
    os.setgroups(process.groups)
    os.setresgid(*[process.groups[0]] * 3)
    os.setresuid(*[process.user] * 3)


def _find_denials(root: int, paths: Sequence[str]) -> Iterator[tuple[str, Denial]]:
    for path in paths:
        denial = _check_path(root, path)
        if denial is not None:
            yield path, denial


def _check_path(root: int, path: str) -> Denial | None:
    """Return why a path cannot be written below the root; None if it can, or does not exist."""
    inside = path.lstrip("/") or "."
    try:
        fd = os.open(inside, os.O_PATH | os.O_CLOEXEC, dir_fd=root)
    except OSError as error:
        # The unit hides a path (ProtectHome=) if the same user finds it only outside the unit.
        if os.path.lexists(path):
            return "missing"
        return "rights" if isinstance(error, PermissionError) else None
    try:
        if os.fstatvfs(fd).f_flag & os.ST_RDONLY:
            return "disk" if _is_on_read_only_disk(path) else "read_only"
        is_folder = stat.S_ISDIR(os.fstat(fd).st_mode)
    finally:
        os.close(fd)
    mode = os.W_OK | os.X_OK if is_folder else os.W_OK  # X_OK: lensd enters folders
    return None if os.access(inside, mode, dir_fd=root) else "rights"


def _is_on_read_only_disk(path: str) -> bool:
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False
