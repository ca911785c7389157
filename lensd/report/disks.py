"""The disks of the watched folders and of the archive, with their free space."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

from lensd.config.model import Config
from lensd.errors import StorageError
from lensd.report.history import Disk
from lensd.store.deadline import within

ARCHIVE = "archive"
PATIENCE_SECONDS = 0.5  # for a filesystem that may hang


def find_disks(config: Config) -> list[Disk]:
    """Each disk once. A folder that is missing or does not answer is left out."""
    disks: dict[int, Disk] = {}
    for name, path in _folders(config):
        with suppress(OSError, StorageError):
            device, free, size = within(PATIENCE_SECONDS, partial(_measure, path))
            known = disks[device].holds if device in disks else ()
            disks[device] = Disk((*known, name), free, size)
    return list(disks.values())


def _folders(config: Config) -> Iterator[tuple[str, str]]:
    yield from ((watch.name, watch.root) for watch in config.watch)
    yield ARCHIVE, config.archive.path


def _measure(path: str) -> tuple[int, int, int]:
    """The device, and the free bytes and all bytes that a user has there."""
    space = os.statvfs(path)
    return os.stat(path).st_dev, space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize
