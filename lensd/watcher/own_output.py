"""Recognizes lensd's own outputs by the marks in their headers."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from lensd.errors import FileError, Skipped
from lensd.lora import marks
from lensd.store.fs import open_folder, open_regular
from lensd.store.header import MAX_HEADER_BYTES, read_header
from lensd.store.identity import Identity

_FIRST_BYTES = 8192
_START = b'{"__metadata__":'
_LAST = re.compile(rb'"data_offsets":\[[0-9]{1,19},([0-9]{1,19})\]\}\}\Z')
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Marked:
    """An output, and the original that its marks name. `name`: as `name_in_marks` of that file."""

    identity: Identity
    sha256: str
    bytes_in: int | None
    mode: str | None
    name: str | None = None


def name_in_marks(name: str) -> str:
    """A file name as the marks have it, which are UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


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


def names_another(root: str, relative: str, sha256: str | None) -> bool:
    """Whether a file is the output of another original than that with this hash.

    Size, date and inode do not show it where a copy keeps the date: the outputs of one training
    often have the same size.
    """
    marked = read_marks(root, relative)
    return marked is not None and marked.sha256 != sha256


def marks_at(folder_fd: int, name: str) -> Marked | None:
    """As `read_marks`, for a file of an open folder, and without a check of each tensor.

    That a header is as lensd writes it, and that the file has the bytes that it names, takes a
    tenth of the time: a rebuild of the ledger reads the headers of all files.
    """
    try:
        fd = open_regular(folder_fd, name)
        try:
            found = os.fstat(fd)
            metadata = _own_metadata(fd, found.st_size)
            if metadata is None:
                metadata = read_header(fd, found.st_size).metadata
        finally:
            os.close(fd)
    except (OSError, FileError):
        return None
    return _marked(Identity.of(found), metadata) if marks.is_output(metadata) else None


def _own_metadata(fd: int, size: int) -> Mapping[str, str] | None:
    """The metadata of a complete file with a header in lensd's layout; None for another layout."""
    raw = os.pread(fd, _FIRST_BYTES, 0)
    length = int.from_bytes(raw[:8], "little")
    if not raw.startswith(_START, 8) or length > MAX_HEADER_BYTES:
        return None
    raw = raw[8 : 8 + length] if length + 8 <= len(raw) else os.pread(fd, length, 8)
    raw = raw.rstrip(b" ")  # a header that is written last is padded
    last = _LAST.search(raw, max(0, len(raw) - _FIRST_BYTES))
    if last is None or 8 + length + int(last[1]) != size:
        return None
    try:
        metadata, _ = _DECODER.raw_decode(raw.decode(), len(_START))
    except (ValueError, RecursionError):
        return None
    is_text = isinstance(metadata, dict) and {str}.issuperset(map(type, metadata.values()))
    return metadata if is_text else None


def _marked(identity: Identity, metadata: Mapping[str, str]) -> Marked:
    size = metadata.get(marks.ORIGINAL_BYTES, "")
    bytes_in = int(size) if size.isascii() and size.isdigit() and len(size) < 19 else None
    return Marked(
        identity,
        metadata[marks.ORIGINAL],
        bytes_in,
        metadata.get(marks.MODE),
        metadata.get(marks.ORIGINAL_NAME),
    )
