"""Proves the filesystem of each folder once per mount, and keeps the results in the ledger."""

from __future__ import annotations

import contextlib
import os
import threading

from lensd.errors import StorageError
from lensd.store.ledger import Ledger
from lensd.store.mounts import Mount, mount_of_folder
from lensd.store.probe import Proof, prove, unproven


class Filesystems:
    """The mounts that this process has proven. From any thread."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._lock = threading.Lock()
        self._proofs: dict[Mount | None, Proof] = {}

    def prove(self, folder: str, *, again: bool = False) -> None:
        """Prove the filesystem of a folder; `again`, since its disk is back.

        A folder that cannot be opened is left out.
        """
        try:
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return
        try:
            if again:
                with self._lock:
                    self._proofs.pop(mount_of_folder(fd), None)
            self.of(fd)
        finally:
            os.close(fd)

    @property
    def has_unknown(self) -> bool:
        """Whether a mount could not be proven: it was full, or read-only."""
        return any(proof.way is None for proof in tuple(self._proofs.values()))

    def of(self, folder_fd: int) -> Proof:
        """The proof of an open folder's mount; a mount that is not proven yet is proven now."""
        mount = mount_of_folder(folder_fd)
        with self._lock:
            known = self._proofs.get(mount)
            if known is not None and known.way is not None:
                return known
            return self._prove(folder_fd, mount)

    def _prove(self, folder_fd: int, mount: Mount | None) -> Proof:
        try:
            proof = prove(folder_fd)
        except OSError as error:  # it is full, read-only, or not writable for lensd
            proof = unproven(folder_fd, error.strerror or str(error))
        if mount is not None:  # None: it was unmounted just now
            self._proofs[mount] = proof
            self._record()
        return proof

    def _record(self) -> None:
        note, proofs = self._ledger.state.filesystems, tuple(self._proofs.values())
        with contextlib.suppress(StorageError):  # a full disk must not end a start
            if note.get() != proofs:
                note.set(proofs)
