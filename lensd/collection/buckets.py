"""A collection in a bucket of an object store: S3 and what speaks as S3 does, Google's storage.

Credentials, region and endpoint come from where each library looks for them: the environment
(AWS_PROFILE, AWS_ENDPOINT_URL, ...), its files, or the configuration of fsspec.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import fsspec

from lensd.collection.item import Item, Version, is_wanted
from lensd.errors import Failed, Reason

# Of a download and an upload, so that a file of any size takes little memory.
_PARTS_AT_ONCE = 2
_PART_BYTES = 16 * 2**20
_LONGEST_KEY = 1024  # bytes, of S3 and of Google's storage


class Bucket:
    """`address`: s3://BUCKET[/PREFIX] or gs://BUCKET[/PREFIX]."""

    has_file_permissions = False  # credentials that have expired look the same

    def __init__(self, address: str) -> None:
        self.url = address.rstrip("/")
        self._fs, path = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        self._root = path.rstrip("/")
        self.left_out: list[str] = []  # a listing is complete, or fails
        self._is_s3 = self.url.startswith("s3:")

    def real_url(self) -> str:
        return self.url

    def prepare(self) -> None:
        """There are no folders to make. Raises FileNotFoundError if the bucket is not there.

        Raises what the library raises for an endpoint that is away.
        """
        bucket = self._root.partition("/")[0]
        try:
            self._fs.info(bucket)
        except FileNotFoundError:
            raise FileNotFoundError(f"the bucket {bucket} does not exist") from None
        except PermissionError:
            pass  # who may write objects need not be allowed to look at the bucket

    def find(self) -> Iterator[Item]:
        found = self._pages() if self._is_s3 else self._folders()
        for name, version in found:
            if is_wanted(name):
                yield Item(name, version)

    def version(self, name: str) -> Version | None:
        try:
            info = self._fs.info(self._path(name))
        except FileNotFoundError:
            return None
        return None if info["type"] == "directory" else _version_of(info)

    def fetch(self, name: str, folder: str) -> str:
        path = os.path.join(folder, "original")
        one_stream = {"max_concurrency": 1} if self._is_s3 else {}
        self._fs.get_file(self._path(name), path, **one_stream)
        return path

    def publish(self, name: str, path: str, token: str, *, replace: bool) -> None:
        """An object appears when its upload ends, in one part or in several.

        `token` is not used. Some stores ignore the condition that there must be no such object, so
        that it is asked for as well. Raises Failed for a name that no object can have.
        """
        del token
        _require_key(self._path(name))
        if not replace and self.version(name) is not None:
            raise FileExistsError(self._path(name))
        in_parts = {"chunksize": _PART_BYTES, "max_concurrency": _PARTS_AT_ONCE}
        self._fs.put_file(
            path,
            self._path(name),
            mode="overwrite" if replace else "create",
            **(in_parts if self._is_s3 else {}),
        )

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _pages(self) -> Iterator[tuple[str, Version]]:
        """A thousand objects a request; only these are in memory."""
        bucket, _, prefix = self._root.partition("/")
        prefix += "/" if prefix else ""
        more: dict[str, str] = {}
        while True:
            page = self._fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, **more)
            for info in page.get("Contents", ()):
                yield info["Key"][len(prefix) :], _version_of(info | {"size": info["Size"]})
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def _folders(self) -> Iterator[tuple[str, Version]]:
        """The objects of one folder are in memory at a time."""
        for folder, _, files in self._fs.walk(self._root, detail=True):
            for base, info in files.items():
                yield f"{folder}/{base}"[len(self._root) + 1 :], _version_of(info)


def _require_key(path: str) -> None:
    """Raises Failed for a path whose key no bucket takes."""
    try:
        key = path.partition("/")[2].encode()
    except UnicodeEncodeError:
        raise Failed(
            Reason.UNUSABLE_NAME,
            "the name is not valid UTF-8, which a bucket needs; rename the file",
        ) from None
    if len(key) > _LONGEST_KEY:
        raise Failed(
            Reason.UNUSABLE_NAME,
            f"with the prefix the name has {len(key):,} bytes, and a bucket takes "
            f"{_LONGEST_KEY:,}; rename the file, or choose a shorter DEST",
        )


def _version_of(info: dict[str, Any]) -> Version:
    etag = info.get("ETag") or info.get("etag")
    changed = info.get("LastModified") or info.get("mtime")
    return Version(
        info["size"],
        etag and etag.strip('"'),
        changed if changed is None or isinstance(changed, str) else changed.isoformat(),
    )
