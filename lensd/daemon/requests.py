"""What `restore`, `retry`, `pause`, `resume` and `prune` do.

The process that has the state folder's lock does it: the command itself, or the running daemon.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import assert_never

from lensd.config.model import Config
from lensd.daemon.control import Send
from lensd.daemon.control_messages import (
    Message,
    OnceRequest,
    PauseRequest,
    Progress,
    PruneRequest,
    Request,
    RestoreRequest,
    ResumeRequest,
    RetryRequest,
    Step,
    StepRequest,
)
from lensd.daemon.select import choose, queue, resolve_paths, watch_of
from lensd.errors import (
    EXIT_OK,
    EXIT_SOME_FAILED,
    ConfigError,
    FileError,
    LensdError,
    UsageError,
)
from lensd.jobs.copies import KnownCopies, find_copies
from lensd.jobs.daily_prune import observe_clock
from lensd.jobs.originals import Original, OriginalFinder
from lensd.jobs.prune import Pruned, Pruner
from lensd.jobs.prune_choice import PruneChoice
from lensd.jobs.restore import Restorer
from lensd.logs.events import DaemonPaused, DaemonResumed
from lensd.store.archive import Archive
from lensd.store.disk_errors import Interrupted
from lensd.store.ledger import Ledger, Outcome
from lensd.store.ledger.entry import Entry
from lensd.store.paths import is_below
from lensd.text import plural, size, visible
from lensd.watcher.folder import Log
from lensd.watcher.move_tracker import MoveTracker, choose_paths
from lensd.watcher.presence import is_lost


@dataclass(frozen=True, slots=True)
class RequestHandler:
    """One method for each type of request. It sends the messages and returns the exit code.

    `look_at(paths)` makes the intake look at paths again; a prune ends early when `stop()` is true.
    """

    config: Config
    ledger: Ledger
    archive: Archive
    log: Log
    move_tracker: MoveTracker
    look_at: Callable[[Iterable[str]], None] = lambda _: None
    stop: Callable[[], bool] = lambda: False
    closed: Callable[[], Collection[str]] = frozenset  # the roots that may not be read now
    latest_steps: Callable[[], tuple[Step, ...]] = tuple

    def handle(self, request: Request, send: Send) -> int:
        """Raises LensdError as the method for the request does."""
        match request:
            case OnceRequest():
                return self.once(request, send)
            case RestoreRequest():
                return self.restore(request, send)
            case RetryRequest():
                return self.retry(request, send)
            case PauseRequest():
                return self.pause(request, send)
            case ResumeRequest():
                return self.resume(request, send)
            case PruneRequest():
                return self.prune(request, send)
            case StepRequest():
                for step in self.latest_steps():
                    send(step)
                return EXIT_OK
            case _:
                assert_never(request)

    def once(self, request: OnceRequest, send: Send) -> int:
        """Let the running daemon process the files that are there. Raises UsageError."""
        there = self.config.model_copy(
            update={"watch": tuple(w for w in self.config.watch if w.root not in self.closed())}
        )
        resolve_paths(self.config, request.paths)
        chosen = choose(there, self.ledger, request.paths, redo=request.redo)
        queue(chosen, self.ledger)
        self.look_at(os.path.join(file.watch.root, file.path) for file in chosen.files)
        count = len(chosen.files) + len(chosen.again)
        queued = (
            f"; {plural(len(chosen.resumed), 'more is', 'more are')} in its queue"
            if chosen.resumed
            else ""
        )
        send(Message(f"lensd takes {plural(count)}{queued}; `lensd status` shows how far it is"))
        if chosen.copies:
            copies = plural(len(chosen.copies), "copy of an output", "copies of outputs")
            send(Message(f"it leaves {copies} alone; `lensd once --redo --dry-run` says why"))
        return EXIT_OK

    def restore(self, request: RestoreRequest, send: Send) -> int:
        """Put originals back into the watched folders. Raises UsageError before any is put back."""
        restorer = Restorer(
            self.ledger, self.archive, self.log, self.move_tracker, self.config.settle.quiet_seconds
        )
        roots = {watch.root for watch in self.config.watch}
        with contextlib.suppress(FileError, OSError, Interrupted):  # the next start tries again
            restorer.finish_interrupted(roots.__contains__, self.stop)
        originals = self.find_originals(request)
        copies = KnownCopies(self.ledger, self.move_tracker)
        restored: list[Original] = []
        for done, original in enumerate(originals, 1):
            path, method = original.full_path, None
            try:
                if self.stop():
                    raise Interrupted
                needed = copies.need(original)
                purge = request.purge and not needed
                method = restorer.put_back(original, purge=purge, keep=needed, stop=self.stop)
            except Interrupted:
                left = len(originals) - done + 1
                send(Message(f"lensd is stopping; {_not_restored(left)}: try again later"))
                return EXIT_SOME_FAILED
            except (LensdError, OSError) as error:
                say = f"error: {error}" if path in str(error) else f"error: {path}: {error}"
            else:
                restored.append(original)
                copies.remove(original)
                say = f"restored {path} ({method} from the archive)"
                if request.purge and needed:
                    say += "; a copy of the compressed file needs the original, which stays there"
            send(Progress(visible(say), path=path, done=done, of=len(originals), method=method))
        if len(originals) > 1:
            left = len(originals) - len(restored)
            say = f"restored {plural(len(restored))}, {size(sum(o.bytes for o in restored))}"
            send(Message(f"{say}; {_not_restored(left)}" if left else say))
        return EXIT_OK if len(restored) == len(originals) else EXIT_SOME_FAILED

    def find_originals(self, request: RestoreRequest) -> list[Original]:
        """The originals that a request names, in the order of their restore. Raises UsageError."""
        finder = OriginalFinder(
            self.config.watch, self.ledger, self.archive, self.log, self.move_tracker
        )
        if request.everything:
            found = list(finder.find_all())
        elif request.version is not None:
            found = [finder.find(path, request.version) for path in request.paths]
        else:
            found = [original for path in request.paths for original in finder.find_each(path)]
        found = list({original.full_path: original for original in found}.values())
        # Originals leave the archive, so copies of outputs, which share them, come first.
        return sorted(found, key=lambda original: not original.is_shared)

    def retry(self, request: RetryRequest, send: Send) -> int:
        """Make failed, quarantined and postponed files due now. Raises UsageError."""
        paths, latest = request.paths, self.ledger.files.latest_with_outcome
        failed = _select(latest(Outcome.FAILED, Outcome.QUARANTINED), paths)
        postponed = _select((e for e in self.ledger.jobs.unfinished() if e.not_before), paths)
        _require_selected(paths, [*failed, *postponed])
        closed = self.closed()
        lost = [e for e in failed if e.root not in closed and is_lost(e)]
        self.ledger.jobs.release(failed)
        for entry in postponed:
            self.ledger.jobs.update(entry.job_id, not_before=None)
        self.look_at(e.full_path for e in failed)
        count = len(failed) + len(postponed) - len(lost)
        say = f"{plural(count)} will be tried again when lensd runs"
        if lost:
            gone = plural(len(lost), "failed file is", "failed files are")
            say = f"{gone} not there any more; {say if count else 'nothing is tried again'}"
        is_any = bool(failed or postponed)
        send(Message(say if is_any else "no file has failed, so there is nothing to try again"))
        return EXIT_OK

    def pause(self, request: PauseRequest, send: Send) -> int:
        """Start no new job for the paths, or none at all. Raises UsageError."""
        for path in request.paths:
            if watch_of(self.config, path) is None:
                raise UsageError(f"{visible(path)} is in no watched folder")
        self.ledger.state.pause(request.paths)
        self.log(DaemonPaused(paths=list(request.paths)))
        send(
            Message(
                f"paused: {_join(request.paths)}; the running job will be finished. "
                "`lensd resume` ends the pause"
            )
        )
        return EXIT_OK

    def resume(self, request: ResumeRequest, send: Send) -> int:
        """Start jobs again. Raises UsageError for a path that is not paused by itself."""
        known = self.ledger.state.paused()
        for path in request.paths:
            if path not in known:
                raise UsageError(
                    f"{visible(path)} was not paused by itself; these were: "
                    f"{_join(known) if known else 'none'}"
                )
        self.ledger.state.resume(request.paths)
        self.log(DaemonResumed(paths=list(request.paths)))
        self.look_at(())
        send(Message(f"resumed: {_join(request.paths)}{self._describe_wider(request.paths)}"))
        return EXIT_OK

    def _describe_wider(self, paths: Sequence[str]) -> str:
        """Which pauses of a folder above, or of everything, still hold for one of the paths."""
        wider = [
            pause
            for pause in self.ledger.state.paused()
            if any(not pause or is_below(path, pause) for path in paths)
        ]
        if not wider:
            return ""
        return f"; no job begins there while this is paused: {_join(wider)}. `lensd resume` ends it"

    def prune(self, request: PruneRequest, send: Send) -> int:
        """Delete the originals that a request names, or those that the archive does not keep.

        Raises ConfigError if nothing says which, UsageError for a path without originals.
        """
        keep, quiet = self.config.archive.rules(), self.config.settle.quiet_seconds
        if not (keep.has_any or request.paths or request.deleted):
            raise ConfigError(
                "archive.keep_days and archive.max_size are null, so lensd keeps every original. "
                "Set one of them, e.g. keep_days: 90; or name the files whose originals may go; or "
                "use `lensd prune --deleted` for the originals of files that you deleted"
            )
        if request.dry_run:
            moved = choose_paths(self.move_tracker.plan())
        else:
            observe_clock(self.ledger, self.log)
            self.move_tracker.follow_all()
            moved = {}
        pruner = Pruner(self.ledger, self.archive, self.log, keep, quiet, moved)
        if request.paths or request.deleted:
            copies = find_copies(self.ledger, self.move_tracker, self.closed())
            chooser = PruneChoice(self.ledger, moved, copies, self.closed())
            chosen = chooser.choose(request.paths, deleted=request.deleted)
            found = pruner.prune_chosen(
                chosen, self.stop, dry_run=request.dry_run, deleted=request.deleted,
                days=None if request.paths else keep.keep_days, copies=copies,
            )  # fmt: skip
        else:
            found = pruner.prune(time.time(), self.stop, dry_run=request.dry_run)
        results = []
        for result in found:
            results.append(result)
            send(Message(visible(_describe(result, dry_run=request.dry_run))))
        deleted = [r for r in results if r.kept_because is None]
        done = "would be deleted" if request.dry_run else "deleted"
        left = len(results) - len(deleted)
        stay = f"; {plural(left, 'stays', 'stay')}" if left else ""
        sizes = f"{size(sum(r.bytes for r in deleted))}{stay}"
        send(Message(f"{plural(len(deleted), 'original')} {done}, {sizes}"))
        return EXIT_OK


def _not_restored(left: int) -> str:
    return f"{plural(left)} {'is' if left == 1 else 'are'} not restored"


def _describe(result: Pruned, *, dry_run: bool) -> str:
    if result.kept_because is not None:
        return f"stays: {result.path}  {size(result.bytes)}  {result.kept_because}"
    done = "would delete" if dry_run else "deleted"
    return f"{done}: {result.path}  {size(result.bytes)}  in {result.archive_path}"


def _select(entries: Iterable[Entry], paths: Sequence[str]) -> list[Entry]:
    """The entries at or below the paths; all of them without paths."""
    return [e for e in entries if not paths or any(is_below(e.full_path, p) for p in paths)]


def _require_selected(paths: Sequence[str], selected: Sequence[Entry]) -> None:
    for path in paths:
        if not _select(selected, [path]):
            raise UsageError(
                f"{visible(path)} has not failed and is not quarantined or postponed; "
                "`lensd status` lists the files that are; `lensd once --redo` with its path "
                "processes any other file again"
            )


def _join(paths: Sequence[str]) -> str:
    return visible(", ".join(path or "everything" for path in paths)) or "everything"
