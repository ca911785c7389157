"""What a running lensd may write, asked of the kernel with its eyes: its mounts, user and groups.

A unit's settings show only in the process that runs under them. So the paths are looked up below
/proc/PID/root, in the process's own mounts, by a child that has its user and groups.
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

# missing: hidden from it. read_only: its mount is, and ours is not. disk: ours is, too.
Denial = Literal["missing", "read_only", "disk", "rights"]


class NotAllowed(Exception):
    """Only the process's own user and root may look through its eyes."""


@dataclass(frozen=True, slots=True)
class Process:
    """`groups` are all of them, the primary one first."""

    pid: int
    user: int
    groups: tuple[int, ...]
    overrides: bool  # CAP_DAC_OVERRIDE: no mode keeps it out

    @classmethod
    def of(cls, pid: int) -> Process:
        """Raises ProcessLookupError when it is gone."""
        try:
            return cls._parsed(pid, Path(f"/proc/{pid}/status").read_text())
        except FileNotFoundError:
            raise ProcessLookupError(pid) from None

    @classmethod
    def _parsed(cls, pid: int, status: str) -> Process:
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
    """Of these folders and files (absolute, without links) those that it may not write, and why.

    Raises NotAllowed, ProcessLookupError.
    """
    if os.geteuid() not in (0, process.user):
        raise NotAllowed
    try:
        root = os.open(f"/proc/{process.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ProcessLookupError(process.pid) from None
    except PermissionError:  # its capabilities or its namespaces are more than ours
        raise NotAllowed from None
    try:
        return _in_a_child(process, root, paths)
    finally:
        os.close(root)


def _in_a_child(process: Process, root: int, paths: Sequence[str]) -> dict[str, Denial]:
    """A process's user is given up for good: so a child does it, and tells by a pipe."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _become(process)
            os.write(writing, json.dumps(dict(_denied(root, paths))).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with open(reading, "rb") as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    if status:
        raise NotAllowed
    found: dict[str, Denial] = json.loads(text)
    return found


def _become(process: Process) -> None:
    if os.geteuid() != 0 or process.overrides:
        return
    os.setgroups(process.groups)
    os.setresgid(*[process.groups[0]] * 3)
    os.setresuid(*[process.user] * 3)


def _denied(root: int, paths: Sequence[str]) -> Iterator[tuple[str, Denial]]:
    for path in paths:
        why = _denial(root, path)
        if why is not None:
            yield path, why


def _denial(root: int, path: str) -> Denial | None:
    inside = path.lstrip("/") or "."
    try:
        fd = os.open(inside, os.O_PATH | os.O_CLOEXEC, dir_fd=root)
    except OSError as error:
        # What the same user finds outside and not inside, the unit hides (ProtectHome=).
        if os.path.lexists(path):
            return "missing"
        return "rights" if isinstance(error, PermissionError) else None
    try:
        if os.fstatvfs(fd).f_flag & os.ST_RDONLY:
            return "disk" if _read_only_here(path) else "read_only"
        is_folder = stat.S_ISDIR(os.fstat(fd).st_mode)
    finally:
        os.close(fd)
    mode = os.W_OK | os.X_OK if is_folder else os.W_OK  # a folder has to be entered too
    return None if os.access(inside, mode, dir_fd=root) else "rights"


def _read_only_here(path: str) -> bool:
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False
