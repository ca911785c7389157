"""What comes before the jobs of a folder: finish what a crash left, and record the folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from lensd import __version__
from lensd.config.model import Watch
from lensd.daemon.inbox import RootRepaired
from lensd.errors import EXIT_OK, DiskUnavailable, Failed, StorageError
from lensd.jobs import recover
from lensd.jobs.context import JobContext
from lensd.jobs.daily_prune import observe_clock
from lensd.jobs.rebuild import rebuild
from lensd.logs.events import DaemonBaseline
from lensd.store.walk import linked_folders
from lensd.watcher.baseline import list_files, record_baseline

HASH_BYTES = 256 << 20  # of the originals that a rebuild hashes before the daemon is ready


class _Stopping(Exception):
    """lensd ends; what the repair of a folder has not done, it does after the next start."""


class Repairs:
    """For the job thread; in `once` for the main thread, before that one runs.

    `back_off(fault)` lets the jobs wait that need a disk.
    """

    def __init__(
        self,
        watches: Sequence[Watch],
        context: JobContext,
        back_off: Callable[[StorageError], None],
        notify_root: Callable[[RootRepaired], None],
    ) -> None:
        self._watches = {watch.root: watch for watch in watches}
        self._context = context
        self._back_off = back_off
        self._notify_root = notify_root

    def finish_crash(self) -> None:
        """What needs no folder that is closed."""
        context, jobs = self._context, self._context.ledger.jobs
        observe_clock(context.ledger, context.log)
        context.move_tracker.finish_interrupted_move()
        context.filesystems.prove(context.archive.root)
        self._wait_for_disk(lambda: recover.recover(context))
        jobs.release(jobs.quarantined_before(__version__))

    def repair(self, root: str) -> int:
        """Continue the jobs of a folder that is back, and notify its thread."""
        context, is_complete = self._context, False
        try:
            if root in context.root_states.hanging:  # another thread may have been left in it
                return EXIT_OK
            context.filesystems.prove(root, again=True)
            self._wait_for_disk(lambda: recover.continue_jobs(context, lambda found: found == root))
            self.record_folder(self._watches[root], self._go_on)
            is_complete = True
        except _Stopping:
            pass
        except StorageError as fault:
            self._back_off(fault)
        except OSError:  # it is gone again, as the next check finds
            pass
        finally:
            self._notify_root(RootRepaired(root, is_complete))
        return EXIT_OK

    def record_folder(self, watch: Watch, progress: Callable[[], None]) -> None:
        """Bring the ledger up to date with a folder before its first scan. Raises OSError."""
        context = self._context
        ledger, archive, log = context.ledger, context.archive, context.log
        # A file that comes during the rebuild is new, whatever `existing` says.
        is_known = ledger.roots.knows(watch.root)
        there = set[str]() if is_known else list_files(watch, progress)
        hash_bytes = HASH_BYTES if context.patient else math.inf
        rebuild(watch, ledger, archive, log, progress, hash_bytes=hash_bytes)
        recover.rescue_strays(watch.root, watch.name, recursive=watch.recursive, context=context)
        baseline = record_baseline(watch, ledger, context.move_tracker, progress, there=there)
        if baseline is not None:
            files, size = baseline
            links = sorted(linked_folders(watch.root)) if watch.recursive else []
            log(
                DaemonBaseline(
                    watch=watch.name,
                    path=watch.path,
                    files=files,
                    bytes=size,
                    symlinked_folders=links,
                )
            )

    def _wait_for_disk(self, finish: Callable[[], Failed | None]) -> None:
        """Let jobs wait where a disk does not permit to finish what a crash left."""
        try:
            fault = finish()
        except DiskUnavailable as away:
            self._back_off(away)
            return
        if fault is not None and self._context.patient:
            disk = fault.disk or self._context.archive.root
            self._back_off(DiskUnavailable(fault.reason, disk, str(fault)))

    def _go_on(self) -> None:
        if self._context.stopping.is_set():
            raise _Stopping
