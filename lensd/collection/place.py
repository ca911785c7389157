"""Where a collection is: a folder, a bucket, or a folder of an SFTP server."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Protocol
from urllib.parse import urlsplit

from lensd.collection.folder import Folder
from lensd.collection.item import Item, Version
from lensd.errors import StorageError, UsageError
from lensd.store.mounts import read_mounts
from lensd.store.overlaps import find_overlap

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
# The packages for each kind of address, all of the extra `cloud` but gcsfs.
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "sftp": "paramiko"}


class Place(Protocol):
    """`url`: its address without a password. Methods raise OSError if they fail.

    `left_out`: the folders that `find` could not list, each with the reason.
    `has_file_permissions`: a PermissionError is about one file or folder, and not about the access
    to all of them.
    """

    url: str
    left_out: list[str]
    has_file_permissions: bool

    def real_url(self) -> str:
        """`url`, with links to folders resolved."""

    def prepare(self) -> None:
        """Make the folder for objects. A bucket must be there. Raises what its library raises."""

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
    if not address:
        raise UsageError("SOURCE and DEST must not be empty; give a folder or an address")
    found = _SCHEME.match(address)
    if found is None:
        return Folder(address)
    scheme = found[1].lower()
    rest = address[found.end() :]
    if scheme == "file":
        return Folder(rest)
    if scheme not in _PACKAGES:
        raise UsageError(
            f"{address} is no address that lensd knows; give a folder, s3://, gs:// or sftp://"
        )
    try:
        if scheme == "sftp":
            from lensd.collection.sftp import Sftp

            return Sftp(address)
        if not rest or rest.startswith("/"):
            raise UsageError(f"{address} names no bucket: {scheme}://BUCKET/PREFIX")
        from lensd.collection.buckets import Bucket

        return Bucket(f"{scheme}://{rest}")
    except ImportError:
        package = _PACKAGES[scheme]
        raise UsageError(
            f"{scheme}:// needs {package}: `pip install {package}` in lensd's environment"
        ) from None


def require_apart(source: Place, destination: Place) -> None:
    """Raises UsageError where one of the two lies in the other: outputs would be inputs.

    That holds for bind mounts as well. Raises StorageError where it cannot be found out.
    """
    try:
        urls = _comparable(source, destination)
    except (OSError, EOFError) as error:
        raise StorageError(
            f"{source.url} cannot be reached: {describe(error)}; check address, permissions and "
            "network"
        ) from None
    a, b = (f"{url.rstrip('/')}/" for url in urls)
    if a.startswith(b) or b.startswith(a):
        raise UsageError(
            f"{destination.url} and {source.url} must not lie in each other; choose another DEST"
        )
    require_unbound(source, destination)


def require_unbound(source: Place, destination: Place) -> None:
    """Raises UsageError where a bind mount shows files of the source below the destination.

    It is found only in a folder that exists.
    """
    if isinstance(source, Folder) and isinstance(destination, Folder):
        shown = find_overlap(destination.url, source.url, read_mounts())
        if shown is not None:
            raise UsageError(
                f"{shown} shows files of {source.url} through a bind mount; choose another DEST"
            )


def _comparable(source: Place, destination: Place) -> tuple[str, str]:
    """The addresses of both, without links if they are on the same server."""
    here, there = (urlsplit(place.url)[:2] for place in (source, destination))
    if here == there:
        return source.real_url(), destination.real_url()
    return source.url, destination.url


def describe(error: BaseException) -> str:
    """An error of a place in one line."""
    text = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else ""
    return text if text and not str(error) else str(error) or type(error).__name__
