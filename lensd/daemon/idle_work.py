"""What the job thread does while no job may begin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lensd.jobs.daily_prune import DailyPass
from lensd.jobs.data_hashes import DataHashes
from lensd.jobs.rebuild_later import RebuildLater
from lensd.jobs.recover_later import RecoverLater
from lensd.watcher.root_states import RootStates


@dataclass(frozen=True, slots=True)
class IdleWork:
    """The rest of a rebuild, the hashes of new files, the rest of recovery, then the daily pass.

    A folder that does not answer has its rebuild later. The other work, which reads published files
    in all folders, waits for it.
    """

    archive: str
    states: RootStates
    rebuild_later: RebuildLater | None
    data_hashes: DataHashes | None
    daily: DailyPass | None
    recover_later: RecoverLater
    wake: Callable[[], None]

    def run(self, begin: Callable[[str | None], bool], stop: Callable[[], bool]) -> bool:
        """Whether all was done that is due; it ends when `stop()` is true. Raises StorageError.

        `begin(root)` notes where the thread is about to work; None is in any root.
        """
        if not self.states.answers(self.archive):
            return False
        if self.rebuild_later is not None:
            for root in self.rebuild_later.roots():
                if not self.states.must_wait(root) and begin(root):
                    self.rebuild_later.run_some(root, stop)
        self._keep_data_hashes(begin, stop)
        if stop() or self.states.silent or not begin(None):
            return False
        if self.recover_later.run_if_due():
            self.wake()  # there may be jobs now
            return False
        if self.daily is not None:
            self.daily.run_if_due(stop)
        return not stop()

    def _keep_data_hashes(
        self, begin: Callable[[str | None], bool], stop: Callable[[], bool]
    ) -> None:
        while self.data_hashes is not None and not (stop() or self.states.silent):
            entry = self.data_hashes.next_entry()
            if entry is None or self.states.must_wait(entry.root) or not begin(entry.root):
                return
            self.data_hashes.keep(entry, stop)
