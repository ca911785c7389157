"""The child process that sends messages, which the daemon starts and ends but never talks to.

It reads the ledger by itself. It ends when its stdin is closed, also after a kill of the daemon.
"""

from __future__ import annotations

import subprocess
import threading
import time
from contextlib import suppress

from lensd.worker import isolated

RESTART_SECONDS = 60.0


class Notifier(threading.Thread):
    """Starts the child again if it ends by an error. `config`: the path of the configuration.

    The first child of all reports what happens from now on: a file may fail before it has started.
    """

    def __init__(self, config: str) -> None:
        super().__init__(name="notifier", daemon=True)
        self._command = [*isolated.command("lensd.notify"), config, str(time.time())]
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        while not self._stopping.is_set():
            process = self._start()
            if process is not None and process.wait() == 0:
                return  # its stdin was closed, or it may not use the network
            self._stopping.wait(RESTART_SECONDS)

    def finish(self, seconds: float) -> None:
        """End the child, which sends what is left, but waits no longer than this."""
        self._stopping.set()
        with self._lock:
            process = self._process
        if process is None:
            return
        if process.stdin is not None:
            with suppress(OSError):
                process.stdin.close()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _start(self) -> subprocess.Popen[bytes] | None:
        """None: it is not wanted any more, or cannot be started now."""
        with self._lock:
            if self._stopping.is_set():
                return None
            with suppress(OSError):
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    cwd=isolated.FOLDER,
                    env=isolated.environment(),
                )
                return self._process
        return None
