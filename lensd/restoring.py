"""Bringing originals back, by whoever holds the state folder's lock."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lensd.errors import Skipped, UsageError
from lensd.intake.intake import Folder, Log
from lensd.lora import marks
from lensd.store import atomic
from lensd.store.archive import Archive
from lensd.store.entry import Entry
from lensd.store.files import identity_at, open_folder
from lensd.store.header import read_header
from lensd.store.identity import Identity
from lensd.store.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Original:
    """An archived original, and the path that it belongs to."""

    folder: Folder
    relative: str
    sha256: str
    path: str  # in the archive
    entry: Entry | None

    @property
    def home(self) -> str:
        return os.path.join(self.folder.root, self.relative)


class Restorer:
    """Finds originals and puts them back."""

    def __init__(
        self, folders: Sequence[Folder], ledger: Ledger, archive: Archive, log: Log
    ) -> None:
        self._folders = folders
        self._ledger = ledger
        self._archive = archive
        self._log = log

    def everything(self) -> Iterator[Original]:
        """All originals that the ledger says are in the archive, but for older versions."""
        roots = {f.root: f for f in self._folders}
        for entry in self._ledger.with_outcome("compressed"):
            if entry.root in roots:
                yield self._of_entry(roots[entry.root], entry)

    def of_path(self, path: str, version: str | None = None) -> Original:
        """The original of a path in a watched folder; `version` is its sha256, or how it begins.

        Raises UsageError when there is none.
        """
        place = os.path.join(
            os.path.realpath(os.path.dirname(os.path.abspath(path))), os.path.basename(path)
        )
        folder = next((f for f in self._folders if place.startswith(f.root + "/")), None)
        if folder is None:
            raise UsageError(f"{path} is in no watched folder; give the path that the original had")
        relative = os.path.relpath(place, folder.root)
        if version is not None:
            return self._older(folder, relative, version)
        entry = self._ledger.find(folder.root, relative)
        if entry is not None and entry.outcome == "compressed":
            return self._of_entry(folder, entry)
        found = self._archive.find(folder.name, relative)
        sha256 = _marked(place)
        if found is None or sha256 is None:
            raise UsageError(
                f"the archive has no original of {path}; `lensd restore --list` shows what it has"
            )
        return Original(folder, relative, sha256, found, None)

    def put_back(self, original: Original, *, purge: bool = False) -> str:
        """Replace the output by its original, bit for bit; returns move, reflink or copy.

        Raises Skipped(`changed`) when the file is no longer lensd's output.
        """
        published = self._published(original)
        job_id = self._intend(original)
        method = atomic.return_original(
            original.path,
            original.sha256,
            original.folder.root,
            original.relative,
            published=published,
            token=job_id,
        )
        gone = purge or method == "move"
        identity = Identity.of(os.lstat(original.home))
        self._ledger.came_back(job_id, identity, original.path, gone=gone)
        if purge and method != "move":
            self._archive.remove(original.path)  # the ledger may say less than the disk holds
        self._log(
            "file.restored",
            path=original.home,
            watch=original.folder.name,
            job_id=job_id,
            sha256=original.sha256,
            method=method,
            bytes=identity.size,
        )
        return method

    def _of_entry(self, folder: Folder, entry: Entry) -> Original:
        path = entry.archive_path or os.path.join(self._archive.root, folder.name, entry.path)
        return Original(folder, entry.path, entry.sha256_in or "", path, entry)

    def _older(self, folder: Folder, relative: str, version: str) -> Original:
        known = self._archive.versions(folder.name, relative)
        newest = self._ledger.find(folder.root, relative)
        if newest is not None and newest.sha256_in and newest.archive_path:
            known.append((newest.sha256_in, newest.archive_path))
        fits = [(sha, path) for sha, path in known if sha.startswith(version.lower())]
        if len({sha for sha, _ in fits}) != 1:
            has = ", ".join(sha[:12] for sha, _ in known) or "none"
            raise UsageError(
                f"{version!r} names {'no' if not fits else 'more than one'} version of {relative}; "
                f"the archive has: {has}"
            )
        return Original(folder, relative, *fits[0], newest)

    def _published(self, original: Original) -> Identity | None:
        """What the original may replace: lensd's own output, or nothing at all."""
        folder_fd = open_folder(original.folder.root, os.path.dirname(original.relative))
        try:
            there = identity_at(folder_fd, os.path.basename(original.relative))
        except FileNotFoundError:
            return None
        finally:
            os.close(folder_fd)
        if there is None or _marked(original.home) is not None:
            return there
        raise Skipped(
            "changed",
            f"{original.home} is not lensd's output any more; somebody replaced it. Move it away "
            "first, then restore again",
        )

    def _intend(self, original: Original) -> str:
        """Written down first: after a crash the daemon must know the file as a restored one."""
        job_id = secrets.token_hex(8)
        archived = Identity.of(os.lstat(original.path))
        self._ledger.record(
            job_id,
            original.folder.root,
            original.folder.name,
            original.relative,
            archived,
            outcome="restored",
            sha256_in=original.sha256,
            bytes_in=archived.size,
            archive_path=original.path,
        )
        return job_id


def _marked(path: str) -> str | None:
    """The sha256 of the original that an output names; None if the file is no output."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        metadata = read_header(fd, os.fstat(fd).st_size).metadata
    except Skipped:
        return None
    finally:
        os.close(fd)
    return metadata[marks.ORIGINAL] if marks.is_output(metadata) else None
