"""The thread that works through the queue, one job at a time, beside the main loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from lensd import job
from lensd.workshop import Settings, Workshop


class Runner(threading.Thread):
    """Takes jobs from the ledger. `waited(job_id, now)` tells how long ago its file was noticed."""

    def __init__(
        self,
        shop: Workshop,
        settings: Mapping[str, Settings],
        waited: Callable[[str, float], float],
        done: Callable[[], None],
    ) -> None:
        super().__init__(name="jobs", daemon=True)
        self.error: BaseException | None = None
        self.idle = threading.Event()
        self._shop = shop
        self._settings = settings
        self._waited = waited
        self._done = done
        self._wake = threading.Event()

    def wake(self) -> None:
        """There may be a new job."""
        self.idle.clear()
        self._wake.set()

    def finish(self, timeout: float) -> bool:
        """Give up the running job and end; False if that took longer than `timeout` seconds."""
        self._shop.stopping.set()
        self._wake.set()
        self.join(timeout)
        return not self.is_alive()

    def run(self) -> None:
        try:
            while not self._shop.stopping.is_set():
                if not self._one():
                    self._rest()
        except BaseException as error:  # noqa: BLE001  the main loop must end with it
            self.error = error
        finally:
            self._shop.worker.stop("shutdown")
            self.idle.set()
            self._done()

    def _one(self) -> bool:
        entry = self._shop.ledger.next_queued()
        if entry is None:
            return False
        self.idle.clear()  # while its row still says `queued`
        settings = self._settings.get(entry.root)
        if settings is None:
            message = "its folder is not watched any more"
            self._shop.ledger.finish(entry.job_id, "superseded", message=message)
            return True
        waited = self._waited(entry.job_id, time.monotonic())
        job.process(entry, settings, self._shop, waited)
        self._done()
        return True

    def _rest(self) -> None:
        """Wait for work; an idle worker process leaves after its time."""
        self._wake.clear()
        if self._shop.ledger.next_queued() is not None:
            return
        self.idle.set()
        self._done()
        worker = self._shop.worker
        if self._wake.wait(worker.idle_limit if worker.running else None):
            return
        worker.stop("idle")
