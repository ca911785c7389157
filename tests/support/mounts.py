"""Other disks below tmp_path, for as long as a test needs them. Skips where they cannot be had."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest


def make_filesystem(kind: str, image: Path, size: str) -> None:
    """An empty one in a new, sparse image file."""
    program = f"mkfs.{kind}"
    if shutil.which(program) is None:
        pytest.skip(f"needs the program {program}")
    with image.open("wb") as file:
        file.truncate(int(size.removesuffix("M")) * 2**20)
    subprocess.run([program, "-q", str(image)], check=True)


class Mounts:
    """Mounts that are gone with the `with` block."""

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
        make_filesystem("ext4", image, size)
        return self.image(folder, image)

    def btrfs_in_memory(self, folder: Path) -> Path:
        """A disk that can share blocks between files."""
        image = self.tmpfs(folder.with_name(f"{folder.name}-memory"), "1g") / "image"
        make_filesystem("btrfs", image, "512M")
        return self.image(folder, image)

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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for folder in reversed(self._mounted):
            _unmount(folder)


def _unmount(folder: Path) -> None:
    """A process that a test killed may take a moment to let go of its files."""
    deadline = time.monotonic() + 10
    while subprocess.run(["umount", str(folder)], check=False, capture_output=True).returncode:
        assert time.monotonic() < deadline, f"{folder} cannot be unmounted"
        time.sleep(0.05)
