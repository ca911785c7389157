"""An object of a collection: its name below the source, and the version that lensd found."""

from __future__ import annotations

from msgspec import Struct

SUFFIX = ".safetensors"
_LONGEST_PART = 255  # bytes, on most filesystems


class Version(Struct, frozen=True):
    """What distinguishes the versions of an object. `size` in bytes, `mtime` in ISO 8601."""

    size: int
    etag: str | None = None
    mtime: str | None = None

    @property
    def mark(self) -> str:
        """The version as one text; an ETag counts for more than a time."""
        return f"{self.size} {self.etag or self.mtime}"


class Item(Struct, frozen=True):
    """`name`: the path below the source, with `/`, and surrogates for bytes that are not UTF-8."""

    name: str
    version: Version


def is_wanted(name: str) -> bool:
    return name.lower().endswith(SUFFIX)


def is_usable(name: str) -> bool:
    """Whether the name of an object can be the path of a file below a folder, in every store.

    A bucket may have `../a`, `a//b` or `/a`. `?versionId=` has a meaning for s3fs.
    """
    parts = name.split("/")
    return (
        not any(part in ("", ".", "..") for part in parts)
        and "\0" not in name
        and "?versionId=" not in name
        and all(len(part.encode("utf-8", "surrogateescape")) <= _LONGEST_PART for part in parts)
    )
