"""How many bytes a LoRA will need, from the spectra of a few of its modules."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from lensd.config.settings import Settings
from lensd.errors import Failed, Reason, Skipped
from lensd.lora.layout import Layout, Module, read_layout
from lensd.lora.marks import is_output
from lensd.lora.portability import verdict
from lensd.lora.tensor_spec import ITEM_SIZE, TensorSpec
from lensd.store.header import Header, read_header
from lensd.store.tensors import read_into

MODULES = 24  # of a file; more modules make the range narrower
# What an allocation over the whole file needs of the bytes that the modules need by themselves: the
# least, the median and the most of the files of bench.plan.
ALLOCATION_SHARES = {
    "module": (1.0, 1.0, 1.0),
    "file": (0.25, 0.6, 1.0),
    "balanced": (0.5, 0.77, 1.0),
}
STRICT_SHARE = 1.12  # bench.strict: the most that `strict_energy` adds
_THREADS = "OPENBLAS_NUM_THREADS"
LEAST_MARGIN = 0.04  # of the range: a sample that agrees with itself may still be off


@dataclass(frozen=True, slots=True)
class Expected:
    """The size of an output in bytes: the likely one, and the range around it."""

    bytes: int
    least: int
    most: int


def expect(path: str, size: int, settings: Settings) -> Expected:
    """The size that a file will have; reads its header and `MODULES` of its modules.

    Raises FileError if lensd will not compress it, and OSError.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        header = read_header(fd, size)
        specs = {k: TensorSpec(t.dtype, t.shape) for k, t in header.tensors.items()}
        layout = read_layout(specs)
        if is_output(header.metadata):
            raise Skipped(Reason.ALREADY_COMPRESSED, "it is an output of lensd already")
        if settings.mode == "analyze":
            return Expected(size, size, size)
        shares = _kept_shares(fd, header, layout, settings)
    finally:
        os.close(fd)
    return _to_bytes(size, layout, specs, settings, shares)


def _to_bytes(
    size: int,
    layout: Layout,
    specs: Mapping[str, TensorSpec],
    settings: Settings,
    shares: Sequence[float],
) -> Expected:
    stored = sum(prod(specs[key].shape) * ITEM_SIZE[specs[key].dtype]
                 for m in layout.modules for key in (m.up, m.down))  # fmt: skip
    rest = size - stored - _saved_by_16_bits(layout, specs)
    full = sum(_numbers(m) * width for m, width in _widths(layout, settings))
    fixed = sum(_numbers(m) * width for m, width in _widths(layout, settings) if m.scaled_last)
    least, likely, most = (
        round(rest + fixed + (full - fixed) * min(1.0, max(0.0, share))) for share in shares
    )
    if settings.strict_energy:
        most = round(most * STRICT_SHARE)
    if settings.target_size is not None and settings.mode != "int8":
        least = likely = most = min(settings.target_size, round(rest + full))
    if 1 - likely / size < settings.min_saving:  # it would be kept
        likely = size
        least = size if 1 - least / size < settings.min_saving else least
    most = size if 1 - most / size < settings.min_saving else most
    return Expected(likely, min(least, likely), max(most, likely))


def _numbers(module: Module) -> int:
    return (module.out_features + module.in_features) * module.rank


def _widths(layout: Layout, settings: Settings) -> list[tuple[Module, int]]:
    """How many bytes a number of each module takes in the output."""
    is_8_bit = settings.mode in ("int8", "ultra")
    parameters = settings.parameters()
    encodings = verdict(layout, parameters.targets, parameters.encodings).encodings
    wide = 4 if settings.float32 == "keep" else 2
    return [
        (
            m,
            1
            if is_8_bit and encodings[m.name] and not m.scaled_last
            else min(4 if m.naming.keeps_dtype else wide, ITEM_SIZE[m.dtype]),
        )
        for m in layout.modules
    ]


def _kept_shares(
    fd: int, header: Header, layout: Layout, settings: Settings
) -> tuple[float, float, float]:
    """The share of the numbers that stay: the least, the likely and the most."""
    modules = [m for m in layout.modules if not m.scaled_last]
    if settings.mode == "int8" or not modules or settings.target_size is not None:
        return 1.0, 1.0, 1.0
    weights = [_numbers(m) for m in modules]
    chosen = random.Random(0).choices(modules, weights, k=MODULES)  # noqa: S311  a sample
    reading = _Reading(fd, header)
    shares = [_share_of(reading, m, settings) for m in chosen]
    mean = sum(shares) / MODULES
    variance = sum((s - mean) ** 2 for s in shares) / (MODULES - 1)
    margin = max(LEAST_MARGIN * mean, 2 * math.sqrt(variance / MODULES))
    least, likely, most = ALLOCATION_SHARES[settings.allocation]
    return (mean - margin) * least, mean * likely, (mean + margin) * most


def _share_of(reading: _Reading, module: Module, settings: Settings) -> float:
    rank = reading.kept_rank(module, settings.energy)
    return min(rank, settings.max_rank or rank) / module.rank


class _Reading:
    """Computes the rank of a module once, although a sample may have it twice."""

    def __init__(self, fd: int, header: Header) -> None:
        self._fd, self._header = fd, header
        self.kept_rank = lru_cache(MODULES)(self._kept_rank)

    def _kept_rank(self, module: Module, energy: float) -> int:
        with _one_thread():
            from lensd.lora.quick_spectrum import kept_rank, to_matrix  # the daemon needs no numpy

        up, down = (
            to_matrix(self._read(key), self._header.tensors[key].dtype, rows)
            for key, rows in ((module.up, module.out_features), (module.down, module.rank))
        )
        found = kept_rank(up, down, energy)
        if found is None:
            raise Failed(Reason.NOT_FINITE, f"{module.name} has NaN or infinite weights")
        return found

    def _read(self, key: str) -> bytearray:
        tensor = self._header.tensors[key]
        data = bytearray(tensor.end - tensor.start)
        read_into(memoryview(data), self._fd, self._header, key)
        return data


@contextmanager
def _one_thread() -> Iterator[None]:
    """BLAS, which reads this when numpy is imported, uses one thread: several spin and are slow."""
    before = os.environ.get(_THREADS)
    os.environ[_THREADS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_THREADS]
        else:
            os.environ[_THREADS] = before


def _saved_by_16_bits(layout: Layout, specs: Mapping[str, TensorSpec]) -> int:
    """The bytes that LoHa, LoKr and Tucker modules lose when they become 16-bit."""
    keys = (key for c in layout.composites for _, key in c.parts)
    return sum((ITEM_SIZE[specs[key].dtype] - 2) * prod(specs[key].shape) for key in keys)
