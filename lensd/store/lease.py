"""Read leases: the kernel tells lensd before somebody opens a file for writing or truncates it.

A lease is granted only while nobody has the file open for writing. When somebody wants to, the
kernel holds that open back, signals the lease's holder, and waits for its release: one thread,
alive only while a lease is held, takes the signal and releases at once. It also asks F_GETLEASE
every 50 ms, so a signal that went astray costs a writer that long and not 45 seconds.
"""

from __future__ import annotations

import enum
import errno
import fcntl
import os
import signal
import threading
from types import TracebackType
from typing import Self

LEASE_SIGNAL = signal.SIGRTMIN + 3
_POLL_SECONDS = 0.05
_UNAVAILABLE = (errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK)


class Refusal(enum.Enum):
    """Why there is no lease."""

    OPEN_WRITER = "open_writer"  # somebody has the file open for writing
    UNAVAILABLE = "unavailable"  # a network filesystem, or another owner's file


def block_lease_signal() -> None:
    """Block the signal of broken leases. Call it in the main thread before any thread starts.

    Its default action would end the process in every thread that does not block it.
    """
    signal.signal(LEASE_SIGNAL, signal.SIG_IGN)  # for a thread that a library started earlier
    signal.pthread_sigmask(signal.SIG_BLOCK, [LEASE_SIGNAL])


class Lease:
    """A read lease on an open file, held until `release`, the end of its `with`, or a writer."""

    def __init__(self, own_fd: int) -> None:
        self._fd = own_fd
        self._lock = threading.Lock()
        self._held = True
        self._broken = False

    @classmethod
    def take(cls, fd: int) -> Lease | Refusal:
        """A lease on the file that `fd` has open read-only, or why not.

        The lease outlives `fd`: it has a descriptor of its own. A descriptor open for writing,
        also lensd's own, is an OPEN_WRITER. Raises RuntimeError without block_lease_signal.
        """
        if LEASE_SIGNAL not in signal.pthread_sigmask(signal.SIG_BLOCK, []):
            raise RuntimeError("block_lease_signal() was not called before this thread started")
        own_fd = os.dup(fd)
        try:
            fcntl.fcntl(own_fd, fcntl.F_SETSIG, LEASE_SIGNAL)
            fcntl.fcntl(own_fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except OSError as error:
            os.close(own_fd)
            if error.errno == errno.EAGAIN:
                return Refusal.OPEN_WRITER
            if error.errno in _UNAVAILABLE:
                return Refusal.UNAVAILABLE
            raise
        lease = cls(own_fd)
        _watcher.add(lease)
        return lease

    @property
    def broken(self) -> bool:
        """Whether somebody wanted to write while the lease was held; true for ever after."""
        self.release_if_broken()
        return self._broken

    @property
    def held(self) -> bool:
        """Whether the kernel still keeps writers away."""
        self.release_if_broken()
        return self._held

    def release(self) -> None:
        """Let writers in again. Harmless twice."""
        with self._lock:
            if self._held:
                self._broken = self._is_breaking()
                self._let_go()
        _watcher.remove(self)

    def release_if_broken(self) -> None:
        """Release at once when somebody waits to write."""
        with self._lock:
            if self._held and self._is_breaking():
                self._broken = True
                self._let_go()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.release()

    def _is_breaking(self) -> bool:
        return fcntl.fcntl(self._fd, fcntl.F_GETLEASE) != fcntl.F_RDLCK

    def _let_go(self) -> None:
        self._held = False
        try:
            fcntl.fcntl(self._fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except OSError as error:
            if error.errno != errno.EAGAIN:  # the kernel took it away after its own patience
                raise
        finally:
            os.close(self._fd)


class _Watcher:
    """The one thread that answers for all leases; it ends with the last of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._leases: set[Lease] = set()
        self._running = False

    def add(self, lease: Lease) -> None:
        with self._lock:
            self._leases.add(lease)
            if not self._running:
                self._running = True
                threading.Thread(target=self._watch, name="lease", daemon=True).start()

    def remove(self, lease: Lease) -> None:
        with self._lock:
            self._leases.discard(lease)

    def _watch(self) -> None:
        while leases := self._current():
            signal.sigtimedwait([LEASE_SIGNAL], _POLL_SECONDS)
            for lease in leases:
                lease.release_if_broken()

    def _current(self) -> list[Lease]:
        with self._lock:
            self._leases = {lease for lease in self._leases if lease.held}
            self._running = bool(self._leases)
            return list(self._leases)


_watcher = _Watcher()
