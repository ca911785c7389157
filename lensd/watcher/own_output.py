"""Recognizes lensd's own outputs by the marks in their headers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from lensd.errors import FileError, Skipped
from lensd.lora import marks
from lensd.store.fs import open_folder, open_regular
from lensd.store.header import read_header
from lensd.store.identity import Identity


@dataclass(frozen=True, slots=True)
class Marked:
    """An output, and the original that its marks name."""

    identity: Identity
    sha256: str
    bytes_in: int | None
    mode: str | None


def read_marks(root: str, relative: str) -> Marked | None:
    """None if the file is no output or cannot be read now. Follows no link below the root."""
    folder, name = os.path.split(relative)
    try:
        folder_fd = open_folder(root, folder)
        try:
            fd = open_regular(folder_fd, name)
        finally:
            os.close(folder_fd)
        try:
            found = os.fstat(fd)
            metadata = read_header(fd, found.st_size).metadata
        finally:
            os.close(fd)
    except (OSError, Skipped, FileError):
        return None
    return _marked(Identity.of(found), metadata) if marks.is_output(metadata) else None


def _marked(identity: Identity, metadata: Mapping[str, str]) -> Marked:
    size = metadata.get(marks.ORIGINAL_BYTES, "")
    bytes_in = int(size) if size.isascii() and size.isdigit() and len(size) < 19 else None
    return Marked(identity, metadata[marks.ORIGINAL], bytes_in, metadata.get(marks.MODE))
