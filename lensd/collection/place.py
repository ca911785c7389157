"""Where a collection is: a folder, a bucket, or a folder of an SFTP server."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Protocol

from lensd.collection.folder import Folder
from lensd.collection.item import Item, Version
from lensd.errors import UsageError

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
# The packages for each kind of address, all of the extra `cloud` but gcsfs.
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "sftp": "paramiko"}


class Place(Protocol):
    """`url`: its address without a password. Methods raise OSError if they fail."""

    url: str

    def find(self) -> Iterator[Item]:
        """All objects whose names end in .safetensors, in any order."""

    def version(self, name: str) -> Version | None:
        """The version of an object, None if there is none: no file, or a folder, for example."""

    def fetch(self, name: str, folder: str) -> str:
        """The path of a file with the bytes of an object: its own, or a copy in `folder`."""

    def publish(self, name: str, path: str, token: str, *, replace: bool) -> None:
        """Make an object of the file `path`. It appears whole or not at all.

        `token` names a temporary file beside it. Raises FileExistsError unless `replace` is set.
        """


def is_folder(address: str) -> bool:
    """Whether the address is a folder of this machine."""
    return isinstance(open_place(address), Folder)


def open_place(address: str) -> Place:
    """Raises UsageError for an address of another kind, or if a package is missing."""
    found = _SCHEME.match(address)
    if found is None:
        return Folder(address)
    scheme = found[1].lower()
    if scheme == "file":
        return Folder(address[found.end() :])
    if scheme not in _PACKAGES:
        raise UsageError(
            f"{address} is no address that lensd knows; give a folder, s3://, gs:// or sftp://"
        )
    try:
        if scheme == "sftp":
            from lensd.collection.sftp import Sftp

            return Sftp(address)
        from lensd.collection.buckets import Bucket

        return Bucket(address)
    except ImportError:
        package = _PACKAGES[scheme]
        raise UsageError(
            f"{scheme}:// needs {package}: `pip install {package}` in lensd's environment"
        ) from None


def require_apart(source: Place, destination: Place) -> None:
    """Raises UsageError where one of the two lies in the other: outputs would be inputs."""
    a, b = (f"{place.url.rstrip('/')}/" for place in (source, destination))
    if a.startswith(b) or b.startswith(a):
        raise UsageError(
            f"{destination.url} and {source.url} must not lie in each other; choose another DEST"
        )


def describe(error: BaseException) -> str:
    """An error of a place in one line."""
    text = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else ""
    return text if text and not str(error) else str(error) or type(error).__name__
