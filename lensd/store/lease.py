"""Read leases: the kernel notifies lensd before a program opens a file for writing or truncates it.

The kernel grants a lease only while no program has the file open for writing. When a program opens
it for writing, the kernel blocks that open, signals the process with the lease, and waits for the
release. One thread, alive only while there are leases, receives the signal and releases at once.
It also checks F_GETLEASE every 50 ms, so that a lost signal delays a writer by 50 ms and not by the
kernel's 45 seconds.
"""

from __future__ import annotations

import enum
import errno
import fcntl
import os
import signal
import threading
from typing import Self

from lensd.store.filesystem import enforces_leases

LEASE_SIGNAL = signal.SIGRTMIN + 3
_POLL_SECONDS = 0.05
_UNAVAILABLE = (errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK)


class Refusal(enum.Enum):
    """Why there is no lease."""

    OPEN_WRITER = "open_writer"  # a program has the file open for writing
    UNAVAILABLE = "unavailable"  # a lease would prove nothing here, or a file of another owner


def block_lease_signal() -> None:
    """Block the signal of broken leases; call this in the main thread before any thread starts.

    The default action of the signal ends the process if any thread does not block it.
    """
    signal.signal(LEASE_SIGNAL, signal.SIG_IGN)  # for a thread that a library started earlier
    signal.pthread_sigmask(signal.SIG_BLOCK, [LEASE_SIGNAL])


class Lease:
    """A read lease on an open file, until `release`, the end of its `with`, or a writer."""

    def __init__(self, own_fd: int) -> None:
        self._fd = own_fd
        self._lock = threading.Lock()
        self._held = True
        self._broken = False

    @classmethod
    def take(cls, fd: int) -> Lease | Refusal:
        """A lease on the file that `fd` has open read-only, or the reason why there is none.

        The lease has a descriptor of its own: `fd` may be closed. Any descriptor open for writing,
        also one of lensd, is an OPEN_WRITER. Raises RuntimeError without block_lease_signal.
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
        if not enforces_leases(own_fd):  # asked last: the refusals above are true anywhere
            lease.release()
            return Refusal.UNAVAILABLE
        _watcher.add(lease)
        return lease

    @property
    def broken(self) -> bool:
        """Whether a program wanted to write while there was a lease; stays true."""
        self.release_if_broken()
        return self._broken

    @property
    def held(self) -> bool:
        """Whether the kernel still blocks writers."""
        self.release_if_broken()
        return self._held

    def release(self) -> None:
        """Let programs open the file for writing; a second call has no effect."""
        with self._lock:
            if self._held:
                self._broken = self._is_breaking()
                self._give_up()
        _watcher.remove(self)

    def release_if_broken(self) -> None:
        """Release the lease if a program waits to write."""
        with self._lock:
            if self._held and self._is_breaking():
                self._broken = True
                self._give_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _is_breaking(self) -> bool:
        return fcntl.fcntl(self._fd, fcntl.F_GETLEASE) != fcntl.F_RDLCK

    def _give_up(self) -> None:
        self._held = False
        try:
            fcntl.fcntl(self._fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except OSError as error:
            if error.errno != errno.EAGAIN:  # the kernel removed the lease after its own timeout
                raise
        finally:
            os.close(self._fd)


class _Watcher:
    """The thread that releases broken leases; it ends with the last lease."""

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
