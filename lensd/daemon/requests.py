"""What people ask of lensd. Done here by whoever holds the state folder's lock: a command, or the
running daemon for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lensd.config.model import Config
from lensd.daemon.select import watch_of
from lensd.errors import EXIT_OK, EXIT_SOME_FAILED, ConfigError, LensdError, UsageError
from lensd.jobs.prune import Pruner, Result
from lensd.jobs.restore import Original, Restorer
from lensd.logs.events import DaemonPaused, DaemonResumed
from lensd.store.archive import Archive
from lensd.store.entry import Entry
from lensd.store.ledger import Ledger
from lensd.store.paths import is_below
from lensd.text import size, visible
from lensd.watcher.folder import Log

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RequestHandler:
    """Each method does what the verb of its name says, tells the person, returns the exit code.

    `look(paths)` is called with what has to be looked at anew; `stop()`: end what takes long.
    """

    config: Config
    ledger: Ledger
    archive: Archive
    log: Log
    look: Callable[[Iterable[str]], None] = lambda _: None
    stop: Callable[[], bool] = lambda: False

    def restore(
        self,
        tell: Tell,
        *,
        paths: Sequence[str],
        everything: bool,
        version: str | None,
        purge: bool,
    ) -> int:
        """Originals back under the names of the watched folders. Raises UsageError."""
        restorer = Restorer(self.config.watch, self.ledger, self.archive, self.log)
        code = EXIT_OK
        for original in chosen(restorer, paths, version, everything=everything):
            try:
                method = restorer.put_back(original, purge=purge)
            except (LensdError, OSError) as error:
                tell(visible(f"error: {original.home}: {error}"))
                code = EXIT_SOME_FAILED
            else:
                tell(visible(f"restored {original.home} ({method} from {original.path})"))
        return code

    def retry(self, tell: Tell, *, paths: Sequence[str]) -> int:
        """Another chance for what failed or was set aside. Raises UsageError."""
        failed = _those(self.ledger.with_outcome("failed", "quarantined"), paths)
        delayed = _those((e for e in self.ledger.unfinished() if e.not_before), paths)
        _require_all(paths, [*failed, *delayed])
        self.ledger.release(failed)
        for entry in delayed:
            self.ledger.update(entry.job_id, not_before=None)
        self.look(e.full_path for e in failed)
        tell(f"{len(failed) + len(delayed)} files will be tried again when lensd runs")
        return EXIT_OK

    def pause(self, tell: Tell, *, paths: Sequence[str]) -> int:
        """No new job is begun, for the paths or at all. Raises UsageError."""
        self._require_watched(paths)
        self.ledger.pause(paths)
        self.log(DaemonPaused(paths=list(paths)))
        tell(f"paused: {_named(paths)}; a job under way is finished. `lensd resume` goes on")
        return EXIT_OK

    def resume(self, tell: Tell, *, paths: Sequence[str]) -> int:
        """Jobs are begun again."""
        known = self.ledger.paused()
        unknown = [p for p in paths if p not in known]
        if unknown:
            raise UsageError(
                f"{visible(unknown[0])} is not paused by itself; paused: "
                f"{_named(known) if known else 'nothing'}"
            )
        self.ledger.resume(paths)
        self.log(DaemonResumed(paths=list(paths)))
        self.look(())
        tell(f"resumed: {_named(paths)}")
        return EXIT_OK

    def prune(self, tell: Tell, *, dry_run: bool = False) -> int:
        """Originals older than keep_days go, or would. Raises ConfigError without keep_days."""
        days = self.config.archive.keep_days
        if days is None:
            raise ConfigError(
                "archive.keep_days is null, so every original is kept; set it to a number of "
                "days, e.g. keep_days: 90"
            )
        results = []
        pruner = Pruner(self.ledger, self.archive, self.log, days)
        for result in pruner.prune(time.time(), self.stop, dry_run=dry_run):
            results.append(result)
            tell(visible(_line(result, dry_run=dry_run)))
        gone = [r for r in results if r.stays is None]
        tell(
            f"{len(gone)} originals {'would be deleted' if dry_run else 'deleted'}, "
            f"{size(sum(r.bytes for r in gone))}; {len(results) - len(gone)} stay"
        )
        return EXIT_OK

    def _require_watched(self, paths: Sequence[str]) -> None:
        for path in paths:
            if watch_of(self.config, path) is None:
                raise UsageError(f"{visible(path)} is in no watched folder")


VERBS = ("restore", "retry", "pause", "resume", "prune")


def chosen(
    restorer: Restorer, paths: Sequence[str], version: str | None, *, everything: bool
) -> list[Original]:
    """The originals that somebody means. Raises UsageError."""
    if everything:
        return list(restorer.everything())
    return [restorer.of_path(path, version) for path in paths]


def serve(handler: RequestHandler, verb: str, arguments: dict[str, Any], tell: Tell) -> int:
    """Do what a request asks for. Raises UsageError for one that this version does not know."""
    if verb not in VERBS:
        raise UsageError(f"this lensd does not know `{verb}`; the two are of different versions")
    return int(getattr(handler, verb)(tell, **arguments))


def _line(result: Result, *, dry_run: bool) -> str:
    if result.stays is not None:
        return f"stays: {result.path}  {size(result.bytes)}  {result.stays}"
    done = "would delete" if dry_run else "deleted"
    return f"{done}: {result.path}  {size(result.bytes)}  in {result.archive_path}"


def _those(entries: Iterable[Entry], paths: Sequence[str]) -> list[Entry]:
    return [e for e in entries if _is_meant(e, paths)]


def _is_meant(entry: Entry, paths: Sequence[str]) -> bool:
    full = entry.full_path
    return not paths or any(is_below(full, p) for p in paths)


def _require_all(paths: Sequence[str], chosen: Sequence[Entry]) -> None:
    for path in paths:
        if not any(_is_meant(e, [path]) for e in chosen):
            raise UsageError(
                f"{visible(path)} neither failed nor is it quarantined; `lensd status` lists "
                "those that are"
            )


def _named(paths: Sequence[str]) -> str:
    return visible(", ".join(p or "everything" for p in paths)) or "everything"
