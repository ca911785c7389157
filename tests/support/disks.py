"""Other disks below tmp_path for one test, which skips where none can be mounted."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest


def make_ext4(image: Path, size: str, *options: str) -> None:
    """An empty filesystem in a new, sparse image file."""
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("needs the program mkfs.ext4")
    with image.open("wb") as file:
        os.truncate(file.fileno(), int(size.removesuffix("M")) * 2**20)
    subprocess.run(["mkfs.ext4", "-q", *options, str(image)], check=True)


def _unmount(folder: Path) -> None:
    """Unmount; a loop device may be busy for a moment."""
    for _ in range(100):
        done = subprocess.run(["umount", str(folder)], check=False, capture_output=True)
        if done.returncode == 0:
            return
        time.sleep(0.1)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Mounts:
    """Mounts that end with the `with` block."""

    def __init__(self) -> None:
        self._mounted: list[Path] = []

    def tmpfs(self, folder: Path, size: str = "64m") -> Path:
        """A disk in memory."""
        return self._mount(folder, "-t", "tmpfs", "-o", f"size={size}", "none")

    def image(self, folder: Path, image: Path, options: str = "") -> Path:
        """The filesystem in an image file."""
        return self._mount(folder, "-o", f"loop,{options}".rstrip(","), str(image))

    def ext4_in_memory(self, folder: Path, size: str = "256M") -> Path:
        """A real disk's system calls without its waits."""
        image = self.tmpfs(folder.with_name(f"{folder.name}-memory"), "1g") / "image"
        make_ext4(image, size)
        return self.image(folder, image)

    def exfat(self, folder: Path, size: int = 64 * 2**20) -> Path:
        """A FUSE disk whose exchange of two names is a plain rename."""
        for name in ("mkfs.exfat", "mount.exfat-fuse"):
            if shutil.which(name) is None:
                pytest.skip(f"needs the program {name}")
        image = folder.with_name(f"{folder.name}.exfat")
        with image.open("wb") as file:
            os.truncate(file.fileno(), size)
        subprocess.run(["mkfs.exfat", "-q", str(image)], check=True, capture_output=True)
        return self._mount(folder, "-t", "exfat-fuse", "-o", "loop", str(image))

    def unmount(self, folder: Path) -> None:
        self._mounted.remove(folder)
        _unmount(folder)

    def _mount(self, folder: Path, *what: str) -> Path:
        if os.geteuid() != 0:
            pytest.skip("only root can mount a disk")
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(["mount", *what, str(folder)], check=False, capture_output=True)
        if done.returncode:
            pytest.skip(f"no disk can be mounted here: {done.stderr.decode().strip()}")
        self._mounted.append(folder)
        return folder

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for folder in reversed(self._mounted):
            _unmount(folder)


@contextmanager
def tmpfs(folder: Path, size: str = "64m") -> Iterator[Path]:
    """One disk in memory, mounted at `folder`."""
    with Mounts() as mounts:
        yield mounts.tmpfs(folder, size)


def remount(folder: Path, *, read_only: bool) -> None:
    """Turn a mounted disk read-only, or writable again."""
    option = f"remount,{'ro' if read_only else 'rw'}"
    subprocess.run(["mount", "-o", option, str(folder)], check=True)


def fill(folder: Path, leave: int, name: str = "ballast") -> Path:
    """Fill a disk except for some `leave` bytes; return the file whose deletion frees it."""
    ballast = folder / name
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free - leave))
    return ballast
