"""Mounts that only the daemon under test sees: it runs in a mount namespace of its own.

They end with the daemon, so that nothing is left behind whatever happens to the test.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Disk(NamedTuple):
    """Something to mount on a folder: options of mount(8), and where its files lie meanwhile."""

    options: tuple[str, ...]

    def mount(self, folder: Path) -> list[str]:
        """The command."""
        return ["mount", *self.options, str(folder)]


def image(path: Path, megabytes: int = 64) -> Disk:
    """A disk image with ext4."""
    with path.open("wb") as file:
        file.truncate(megabytes << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", path], check=True, capture_output=True)
    return Disk(("-o", "loop", str(path)))


def bind(folder: Path) -> Disk:
    """Another folder of the same disk."""
    folder.mkdir()
    return Disk(("--bind", str(folder)))


def memory() -> Disk:
    """An empty tmpfs."""
    return Disk(("-t", "tmpfs", "none"))


def namespace(*before: Sequence[str]) -> list[str]:
    """A prefix for a daemon's command: own mounts, and these commands run first."""
    script = "".join(f"{' '.join(command)} && " for command in before)
    return ["unshare", "-m", "sh", "-ec", f'{script}exec "$@"', "sh"]


def within(pid: int, *command: str) -> None:
    """Run a command among the mounts of a process; it must succeed."""
    done = subprocess.run(
        ["nsenter", "-t", str(pid), "-m", *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def seen_by(pid: int, path: Path) -> Path:
    """A path as a process sees it, reachable for any process."""
    return Path(f"/proc/{pid}/root{path}")
