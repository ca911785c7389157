"""systemd's readiness protocol and its watchdog: datagrams to $NOTIFY_SOCKET (sd_notify(3))."""

from __future__ import annotations

import os
import socket
import time


def notify(state: str) -> None:
    """Tell systemd, e.g. `READY=1`; nothing happens outside of a service that asks for it."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.sendto(state.encode(), address)
        except OSError:
            return  # the service manager is gone; that is no reason to stop


def notify_reloading() -> None:
    """A reload begins; `READY=1` ends it. The clock is the one that Type=notify-reload compares."""
    moment = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notify(f"RELOADING=1\nMONOTONIC_USEC={moment}")


PROGRESS_SECONDS = 10.0
_GOES_ON = "WATCHDOG=1\nEXTEND_TIMEOUT_USEC=120000000"


class Pulse:
    """WATCHDOG=1 twice in each of systemd's intervals ($WATCHDOG_USEC), as long as all is well."""

    def __init__(self) -> None:
        pid = os.environ.get("WATCHDOG_PID", str(os.getpid()))
        interval = os.environ.get("WATCHDOG_USEC", "") if pid == str(os.getpid()) else ""
        self._seconds = int(interval) / 2e6 if interval.isdigit() else None
        self._next = 0.0
        self._pause = min(PROGRESS_SECONDS, self._seconds or PROGRESS_SECONDS)
        self._told = time.monotonic()

    def beat(self, now: float) -> None:
        """Called by the main loop in each of its turns that finds everything alive."""
        if self._seconds is not None and now >= self._next:
            self._next = now + self._seconds
            notify("WATCHDOG=1")

    def progress(self) -> None:
        """Called in long work of the main loop, each time that it has come further.

        A first look at 100,000 files may take longer than systemd waits for READY=1, or WATCHDOG=1.
        """
        now = time.monotonic()
        if now >= self._told + self._pause:
            self._told = now
            notify(_GOES_ON)
