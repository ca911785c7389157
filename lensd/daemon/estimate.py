"""The plan that `once --dry-run` prints: sizes from headers and sampled spectra."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from lensd.config.document import Settle
from lensd.config.model import Config, Watch
from lensd.daemon import select
from lensd.daemon.sample import Expected, expect
from lensd.daemon.select import Choice
from lensd.errors import FileError, Reason, Skipped, StorageError
from lensd.store.lease import block_lease_signal
from lensd.store.ledger import Ledger
from lensd.store.space import device_of, free_bytes, size_of
from lensd.watcher.completeness import Kind, decide, probe

BYTES_PER_SECOND = 25e6  # of input, ultra on two cores (bench.engine)
START_SECONDS = 3.5  # of the worker process (bench.plan)
SAMPLED = 12  # files of a folder; the others are like them
COPY = (
    "it is a copy of an output; `lensd restore` brings the original if the archive has it, then "
    "`lensd once --redo` compresses it"
)


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
        plans = [_estimate_folder(config, watch, choice) for watch in config.watch]
        if redo or any(plan.files for plan in plans):
            return plans
        again = select.choose(config, ledger, paths, redo=True)
    return [
        replace(plan, redone=_count_redone(again, watch))
        for plan, watch in zip(plans, config.watch, strict=True)
    ]


def _count_redone(choice: Choice, watch: Watch) -> int:
    """How many files of a folder have a result, which `--redo` would replace."""
    rows = (*choice.again, *(e for e in choice.released if e.outcome in select.RESULTS))
    return sum(row.root == watch.root for row in rows)


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
            yield entry.full_path, source or "", size or size_of(source or "")


def _estimate_folder(config: Config, watch: Watch, choice: Choice) -> Estimate:
    sizes: list[tuple[int, Expected]] = []
    left = [(entry.full_path, COPY) for entry in choice.copies if entry.root == watch.root]
    wait = 0.0
    for path, source, size in _files(choice, watch):
        try:
            wait = max(wait, _seconds_to_settle(path, config.settle) if path == source else 0.0)
            sizes.append((size, _expect(source, size, watch, sizes)))
        except (FileError, OSError) as why:
            left.append((path, getattr(why, "strerror", None) or str(why)))
    now = sum(size for size, _ in sizes)
    archive = os.path.realpath(config.archive.path)
    same_disk = device_of(archive) == device_of(watch.root)
    return Estimate(
        watch=watch.name,
        mode=watch.settings.mode,
        files=len(sizes),
        bytes_now=now,
        bytes_then=sum(then.bytes for _, then in sizes),
        bytes_least=sum(then.least for _, then in sizes),
        bytes_most=sum(then.most for _, then in sizes),
        archive_needs=0 if same_disk or watch.settings.mode == "analyze" else now,
        archive_free=free_bytes(archive),
        seconds=now / BYTES_PER_SECOND + START_SECONDS + wait if sizes else 0.0,
        left=tuple(left),
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
        raise verdict.refusal or Skipped(
            Reason.NOT_WHOLE_YET, verdict.reason or "it is lensd's output"
        )
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
