"""systemd's readiness protocol and its watchdog: datagrams to $NOTIFY_SOCKET (sd_notify(3))."""

from __future__ import annotations

import os
import socket
import time


def notify(state: str) -> None:
    """Send a state to systemd, such as `READY=1`; without effect outside of a notify service."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.sendto(state.encode(), address)
        except OSError:
            return  # the service manager is gone; lensd goes on


def notify_reloading() -> None:
    """Send that a reload begins; `READY=1` ends it. Type=notify-reload compares this clock."""
    moment = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notify(f"RELOADING=1\nMONOTONIC_USEC={moment}")


PROGRESS_SECONDS = 10.0
_IN_PROGRESS = "WATCHDOG=1\nEXTEND_TIMEOUT_USEC=120000000"


class Pulse:
    """Sends WATCHDOG=1 twice in each of systemd's intervals ($WATCHDOG_USEC)."""

    def __init__(self) -> None:
        pid = os.environ.get("WATCHDOG_PID", str(os.getpid()))
        interval = os.environ.get("WATCHDOG_USEC", "") if pid == str(os.getpid()) else ""
        self._seconds = int(interval) / 2e6 if interval.isdigit() else None
        self._next = 0.0
        self._pause = min(PROGRESS_SECONDS, self._seconds or PROGRESS_SECONDS)
        self._sent = time.monotonic()

    def beat(self, now: float) -> None:
        """The main loop calls this whenever all of its parts are alive."""
        if self._seconds is not None and now >= self._next:
            self._next = now + self._seconds
            notify("WATCHDOG=1")

    def progress(self) -> None:
        """The main loop calls this again and again during long work.

        A first scan of 100,000 files may take longer than systemd waits for READY=1 or WATCHDOG=1.
        """
        now = time.monotonic()
        if now >= self._sent + self._pause:
            self._sent = now
            notify(_IN_PROGRESS)
