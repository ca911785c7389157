"""The three passes over a file's modules, each a pool of independent single-threaded tasks.

One intra-op thread per task: several OpenMP threads on a busy machine spin and make the same work
ten times longer. A task holds one module at a time, so that memory does not grow with the file,
and its result does not depend on how many run beside it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lensd.compute.source import Source
from lensd.errors import Failed
from lensd.lora import compress, fidelity
from lensd.lora.layout import Module
from lensd.lora.planning import ModulePlan, Plan, Reading
from lensd.store.output import Output

T = TypeVar("T")
R = TypeVar("R")

# Beyond what rounding explains, a module may differ from its plan by this share of its norm.
VERIFY_SLACK = 1e-4


@dataclass(slots=True)
class Clock:
    """Seconds spent per kind of work, averaged over the pool's threads."""

    threads: int
    spent: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def measure(self, kind: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            took = (time.monotonic() - began) / self.threads
            with self._lock:
                self.spent[kind] = self.spent.get(kind, 0.0) + took


@dataclass(frozen=True, slots=True)
class Measured:
    """One module of an output, against its original and against its plan."""

    plan: ModulePlan
    squared_error: float  # ||delta - what a loader sees||_F^2
    squared_signal: float  # ||delta_k||_F^2 before encoding
    squared_noise: float  # what encoding did to it
    elements: fidelity.ElementError
    too_noisy: bool  # so that it should be no int8

    @property
    def relative_error(self) -> float:
        return (self.squared_error / self.plan.energy) ** 0.5 if self.plan.energy else 0.0


class Engine:
    """Runs the passes of one file on one device."""

    def __init__(self, source: Source, device: str, progress: Callable[[str, int], None]) -> None:
        torch.set_num_threads(1)
        self.source = source
        self.device = torch.device(device)
        self.threads = 1 if self.device.type == "cuda" else available_cores()
        self.clock = Clock(self.threads)
        self._progress = progress

    def first_pass(self) -> list[Reading]:
        """The spectrum of every module. Raises Failed(`not_finite`) naming the first bad one."""
        modules = self.source.layout.modules
        readings = list(self._map("spectrum", self._read, modules))
        bad = [m.name for m, r in zip(modules, readings, strict=True) if r is None]
        if bad:
            raise Failed(
                "not_finite",
                f"{len(bad)} of {len(modules)} modules hold NaN or infinite weights, the first "
                f"is {bad[0]}; the file is broken: download or train it again",
            )
        return [r for r in readings if r is not None]

    def reduce(self, plan: Plan, output: Output) -> list[compress.Reduced]:
        """Compress every module into `output`; the tensors themselves are not kept."""

        def work(m: ModulePlan) -> compress.Reduced:
            reduced = self._reduce(m)
            with self.clock.measure("write"):
                for key, tensor in reduced.tensors.items():
                    output.write(key, as_bytes(tensor))
            return compress.without_tensors(reduced)

        results = list(self._map("reduce", work, plan.modules))
        with self.clock.measure("write"):
            for key in plan.layout.untouched:
                output.copy(key, self.source.fd, self.source.header)
        return results

    def rehearse(self, plan: Plan) -> list[Measured]:
        """What the output would be, measured without writing it."""

        def work(m: ModulePlan) -> Measured:
            reduced = self._reduce(m)
            return self._measure(compress.without_tensors(reduced), reduced.tensors.__getitem__)

        return list(self._map("reduce", work, plan.modules))

    def verify(
        self, output: Output, plan: Plan, reduced: Iterable[compress.Reduced]
    ) -> list[Measured]:
        """Read the output back through the safetensors library and measure what a loader sees.

        Raises Failed(`verify_failed`) where the file is not what was planned.
        """
        began = time.monotonic()
        try:
            with safe_open(output.reading_path, framework="pt") as judge:
                names = judge.keys()
                _check_shapes(plan, {name: judge.get_slice(name) for name in names})

                def work(r: compress.Reduced) -> Measured:
                    return self._measure(r, judge.get_tensor)

                measured = list(self._map("verify", work, list(reduced)))
        except SafetensorError as error:
            raise Failed("verify_failed", f"the output cannot be read back: {error}") from None
        self.clock.spent["verify"] = time.monotonic() - began
        for m in measured:
            _check_error(m)
        return measured

    def seconds(self) -> dict[str, float]:
        """read, compute, write and verify: shares of the wall clock, in seconds."""
        kinds = ("read", "compute", "write", "verify")
        return {kind: round(self.clock.spent.get(kind, 0.0), 4) for kind in kinds}

    def _read(self, module: Module) -> Reading | None:
        with self.clock.measure("read"):
            up, down = self.source.factors(module)
            alpha = self.source.alpha(module)
        with self.clock.measure("compute"):
            return compress.read_module(module, self._there(up), self._there(down), alpha)

    def _reduce(self, m: ModulePlan) -> compress.Reduced:
        with self.clock.measure("read"):
            up, down = self.source.factors(m.module)
        with self.clock.measure("compute"):
            return compress.reduce(m, self._there(up), self._there(down))

    def _measure(self, r: compress.Reduced, read_back: Callable[[str], Tensor]) -> Measured:
        m = r.plan
        up, down = self.source.factors(m.module)
        up, down = compress.flatten(self._there(up), self._there(down))
        keys = [m.module.up, m.module.down]
        if m.encoding == "I8" or m.alpha is not None:
            keys.append(m.module.alpha_key)
        seen = compress.decode(m, {k: self._there(read_back(k)) for k in keys})
        error = fidelity.squared_distance(up.double() * m.scale, down, *seen)
        return Measured(m, error, r.squared_signal, r.squared_error, r.elements, r.too_noisy)

    def _there(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device)

    def _map(self, stage: str, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        with ThreadPoolExecutor(self.threads) as pool:
            for done, result in enumerate(pool.map(work, items), 1):
                self._progress(stage, done)
                yield result


def available_cores() -> int:
    return max(1, len(os.sched_getaffinity(0)))


def as_bytes(tensor: Tensor) -> bytearray:
    """The little-endian bytes of a tensor, as safetensors stores them."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return bytearray(flat.view(torch.uint8).numpy())


def _check_shapes(plan: Plan, found: dict[str, Any]) -> None:
    """`found`: what safe_open's get_slice says of each tensor that the output has."""
    for key, spec in plan.tensors:
        there = found.pop(key, None)
        if there is None or (there.get_dtype(), tuple(there.get_shape())) != spec:
            raise Failed("verify_failed", f"the output's tensor {key} is not as planned")
    if found:
        raise Failed("verify_failed", f"the output has a tensor too many: {next(iter(found))}")


def _check_error(m: Measured) -> None:
    """Truncation and rounding bound the error of a module (triangle inequality)."""
    planned = (m.plan.energy * (1 - m.plan.retained)) ** 0.5 + m.squared_noise**0.5
    allowed = planned + VERIFY_SLACK * m.plan.energy**0.5
    if not m.squared_error**0.5 <= allowed:  # also when it is NaN
        raise Failed(
            "verify_failed",
            f"module {m.plan.module.name} read back from disk differs from the original by "
            f"{m.relative_error:.3g} of its norm, more than planned; nothing was replaced. "
            "Please report this with the file's name",
        )
