"""Sizes of files, and the disk of a path, whether or not there is anything at the path yet."""

from __future__ import annotations

import os
from collections.abc import Iterable


def device_of(path: str) -> int:
    """Return the number of the filesystem that has the path, or the nearest folder above it."""
    return os.stat(_nearest_folder(path)).st_dev


def free_bytes(path: str) -> int:
    """Return the bytes that a user has on the filesystem of the path."""
    space = os.statvfs(_nearest_folder(path))
    return space.f_bavail * space.f_frsize


def size_of(path: str) -> int:
    """Return the bytes of a file; 0 if it is not there, or a link to nothing."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def count_files(folders: Iterable[str]) -> tuple[int, int]:
    """Return the number of .safetensors files in these folders and below, and their bytes."""
    count = total = 0
    for top in folders:
        for folder, _, names in os.walk(top):
            for name in names:
                if name.endswith(".safetensors"):
                    count += 1
                    total += size_of(os.path.join(folder, name))
    return count, total


def _nearest_folder(path: str) -> str:
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path
