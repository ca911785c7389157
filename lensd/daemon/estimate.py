"""The plan that `once --dry-run` prints: sizes from headers and sampled spectra."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from lensd.config.document import Settle
from lensd.config.model import Config, Watch
from lensd.daemon import select
from lensd.daemon.sample import Expected, expect
from lensd.daemon.select import Choice
from lensd.errors import FileError, Skipped, StorageError
from lensd.store.lease import block_lease_signal
from lensd.store.ledger import Ledger
from lensd.watcher.completeness import Kind, decide, probe

BYTES_PER_SECOND = 25e6  # of input, Ultra on two cores
START_SECONDS = 4.0  # of the worker process
SAMPLED = 12  # files of a folder; the others are like them


@dataclass(frozen=True, slots=True)
class Estimate:
    """One watched folder. Sizes in bytes.

    `left`: (path, why) of files that lensd will not compress; `redone`: how many files `--redo`
    would process, if there is nothing else to do.
    """

    watch: str
    mode: str
    files: int
    bytes_now: int
    bytes_then: int
    bytes_least: int
    bytes_most: int
    archive_needs: int
    archive_free: int
    seconds: float
    left: tuple[tuple[str, str], ...] = ()
    redone: int = 0


def estimate(config: Config, paths: Sequence[str], *, redo: bool) -> list[Estimate]:
    """The files that `once` would take up, per folder. Changes nothing. Raises UsageError."""
    block_lease_signal()
    with ExitStack() as opened:
        try:
            ledger = opened.enter_context(Ledger.read_only(config.state.path))
        except StorageError:
            ledger = None  # lensd has not run yet
        choice = select.choose(config, ledger, paths, redo=redo)
        redone = choice
        if not (redo or choice.files or choice.again or choice.resumed):
            redone = select.choose(config, ledger, paths, redo=True)
    return [_estimate_folder(config, watch, choice, redone) for watch in config.watch]


def _files(choice: Choice, watch: Watch) -> Iterator[tuple[str, str, int]]:
    """The path of each file, what lensd will read for it, and the size of that."""
    for file in choice.files:
        if file.watch is watch:
            path = os.path.join(watch.root, file.path)
            yield path, path, file.identity.size
    for entry in (*choice.again, *choice.resumed):
        if entry.root == watch.root:
            is_archived = entry.archive_path is not None and (entry.redo or entry.published)
            source = entry.archive_path if is_archived else entry.full_path
            size = entry.bytes_in if is_archived else entry.identity.size
            yield entry.full_path, source or "", size or _size_of(source or "")


def _size_of(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _estimate_folder(config: Config, watch: Watch, choice: Choice, redone: Choice) -> Estimate:
    sizes: list[tuple[int, Expected]] = []
    left: list[tuple[str, str]] = []
    wait = 0.0
    for path, source, size in _files(choice, watch):
        try:
            wait = max(wait, _seconds_to_settle(path, config.settle) if path == source else 0.0)
            sizes.append((size, _expect(source, size, watch, sizes)))
        except (FileError, OSError) as why:
            left.append((path, getattr(why, "strerror", None) or str(why)))
    now = sum(size for size, _ in sizes)
    archive = os.path.realpath(config.archive.path)
    same_disk = _device(archive) == os.stat(watch.root).st_dev
    return Estimate(
        watch=watch.name,
        mode=watch.settings.mode,
        files=len(sizes),
        bytes_now=now,
        bytes_then=sum(then.bytes for _, then in sizes),
        bytes_least=sum(then.least for _, then in sizes),
        bytes_most=sum(then.most for _, then in sizes),
        archive_needs=0 if same_disk or watch.settings.mode == "analyze" else now,
        archive_free=_free(archive),
        seconds=now / BYTES_PER_SECOND + START_SECONDS + wait if sizes else 0.0,
        left=tuple(left),
        redone=0 if redone is choice else sum(1 for _ in _files(redone, watch)),
    )


def _seconds_to_settle(path: str, settle: Settle) -> float:
    """How long the file must stay unchanged. Raises Skipped if lensd will not take it, OSError."""
    folder, name = os.path.split(path)
    folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        facts = probe(folder_fd, name)
    finally:
        os.close(folder_fd)
    quiet, unproven = settle.quiet_seconds, settle.unproven_seconds
    verdict = decide(facts, math.inf, quiet, unproven)
    if verdict.kind is not Kind.TAKE:
        raise verdict.refusal or Skipped("not_whole_yet", verdict.reason or "it is lensd's output")
    return max(quiet, unproven) if decide(facts, quiet, quiet, unproven).unproven else quiet


def _expect(
    source: str, size: int, watch: Watch, known: Sequence[tuple[int, Expected]]
) -> Expected:
    """Only the first files are sampled; the others are like them. Raises FileError, OSError."""
    settings = watch.settings
    if len(known) < SAMPLED:
        return expect(source, size, settings)
    expect(source, size, settings.model_copy(update={"mode": "analyze"}))  # it may be no LoRA
    ratio = size / max(1, sum(s for s, _ in known[:SAMPLED]))
    return Expected(
        round(ratio * sum(e.bytes for _, e in known[:SAMPLED])),
        round(ratio * sum(e.least for _, e in known[:SAMPLED])),
        round(ratio * sum(e.most for _, e in known[:SAMPLED])),
    )


def _device(path: str) -> int:
    return os.stat(_nearest_folder(path)).st_dev


def _free(path: str) -> int:
    space = os.statvfs(_nearest_folder(path))
    return space.f_bavail * space.f_frsize


def _nearest_folder(path: str) -> str:
    """The path, or the nearest folder above it: the archive may not exist yet."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path
