"""The plan that `once --dry-run` prints: sizes from the headers, ratios from measured files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod

from lensd.config.model import Config, Watch
from lensd.daemon import select
from lensd.errors import FileError, StorageError
from lensd.lora.layout import Layout, read_layout
from lensd.lora.marks import is_output
from lensd.lora.tensor_spec import ITEM_SIZE, TensorSpec
from lensd.store.header import read_header
from lensd.store.ledger import Ledger

# The share of the factors that 99 % of the energy needs: the median of real and generated files
# (docs/formats.md). Only the spectrum of a file gives its real share.
TYPICAL_SHARE = 0.25
BYTES_PER_SECOND = 25e6  # of input, Ultra on two cores


@dataclass(frozen=True, slots=True)
class Estimate:
    """One watched folder. Sizes in bytes."""

    watch: str
    mode: str
    files: int
    bytes_now: int
    bytes_then: int
    archive_needs: int
    archive_free: int
    seconds: float


def estimate(config: Config, paths: Sequence[str], *, redo: bool) -> list[Estimate]:
    """The files that `once` would take up, per folder. Reads headers only. Raises UsageError."""
    with ExitStack() as opened:
        try:
            ledger = opened.enter_context(Ledger.read_only(config.state.path))
        except StorageError:
            ledger = None  # lensd has not run yet
        choice = select.choose(config, ledger, paths, redo=redo)
    files = [(f.watch, os.path.join(f.watch.root, f.path), f.identity.size) for f in choice.files]
    files += [
        (_watch(config, e.root), e.archive_path, e.bytes_in or 0)
        for e in choice.again
        if e.archive_path
    ]
    return [
        _estimate_folder(config, w, [(path, size) for at, path, size in files if at is w])
        for w in config.watch
    ]


def _watch(config: Config, root: str) -> Watch:
    return next(w for w in config.watch if w.root == root)


def _estimate_folder(config: Config, watch: Watch, files: Sequence[tuple[str, int]]) -> Estimate:
    expected = ((size, _estimate_bytes(path, size, watch)) for path, size in files)
    loras = [(size, then) for size, then in expected if then is not None]
    now = sum(size for size, _ in loras)
    archive = os.path.realpath(config.archive.path)
    same_disk = _device(archive) == os.stat(watch.root).st_dev
    return Estimate(
        watch=watch.name,
        mode=watch.settings.mode,
        files=len(loras),
        bytes_now=now,
        bytes_then=sum(then for _, then in loras),
        archive_needs=0 if same_disk or watch.settings.mode == "analyze" else now,
        archive_free=_free(archive),
        seconds=now / BYTES_PER_SECOND,
    )


def _estimate_bytes(path: str, size: int, watch: Watch) -> int | None:
    """The expected size of the output; None if lensd would not compress the file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        header = read_header(fd, size)
        specs = {k: TensorSpec(t.dtype, t.shape) for k, t in header.tensors.items()}
        layout = read_layout(specs)
    except FileError:
        return None
    finally:
        os.close(fd)
    if is_output(header.metadata):
        return None
    mode = watch.settings.mode
    factors = sum((m.out_features + m.in_features) * m.rank for m in layout.modules)
    before = sum(
        (m.out_features + m.in_features) * m.rank * ITEM_SIZE[m.dtype] for m in layout.modules
    )
    width = 1 if mode in ("int8", "ultra") else 2
    share = TYPICAL_SHARE if mode in ("rank", "ultra") else 1.0
    after = before if mode == "analyze" else factors * width * share
    expected = round(size - before + after - _saved_by_16_bits(layout, specs))
    return expected if 1 - expected / size >= watch.settings.min_saving else size


def _saved_by_16_bits(layout: Layout, specs: Mapping[str, TensorSpec]) -> int:
    """The bytes that LoHa, LoKr and Tucker modules lose when they become 16-bit."""
    keys = (key for c in layout.composites for _, key in c.parts)
    return sum((ITEM_SIZE[specs[key].dtype] - 2) * prod(specs[key].shape) for key in keys)


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
