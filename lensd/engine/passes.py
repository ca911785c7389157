"""Run two passes over the modules of a file, each with a pool of independent tasks.

Each task has one intra-op thread: on a busy machine several OpenMP threads spin, and the same work
takes ten times longer. A task has a few modules of one shape, so that memory does not grow with the
file, and its result does not depend on the number of tasks that run at the same time.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor

from lensd.engine import cuda, readback
from lensd.engine.memory_budget import MemoryBudget
from lensd.engine.readback import as_bytes
from lensd.engine.reader import Source
from lensd.errors import Failed, Reason
from lensd.logs.measures import Seconds
from lensd.lora import composites, compress, cost, fidelity, spectrum
from lensd.lora.batches import ELEMENTS, batches
from lensd.lora.composite_layout import Composite
from lensd.lora.composites import CompositePlan, CompositeReading
from lensd.lora.int8 import Factors
from lensd.lora.layout import Module
from lensd.lora.parameters import Parameters
from lensd.lora.planning import ModulePlan, Plan, Reading, columns, own_energy
from lensd.lora.reading import read_modules
from lensd.store.tensors import Output
from lensd.worker import memory
from lensd.worker.protocol import ReportProgress

T = TypeVar("T")
R = TypeVar("R")

# Besides its rounding error, a module may differ from its plan by this share of its norm.
VERIFY_SLACK = 1e-4
SMALLEST_NORM = torch.finfo(torch.float32).tiny  # programs compute smaller ones as zero
# Predicted bytes of the batches that are computed at once. A common batch takes less than a core's
# share, so that none waits for another.
MEMORY, MEMORY_OF_A_CORE = 512.0 * 2**20, 128.0 * 2**20
# Memory for results of the first pass that the second pass needs; it computes the others again.
KEPT_BYTES = 24 * 2**20


@dataclass(slots=True)
class Clock:
    """The seconds of each kind of work, averaged over the pool's threads."""

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
    """One module of an output, compared with its original and with its plan."""

    plan: ModulePlan | CompositePlan
    squared_error: float  # ||delta - delta that a loader computes||_F^2
    squared_signal: float  # ||delta_k||_F^2 before encoding
    squared_noise: float  # ||delta_k - delta that a loader computes||_F^2
    elements: fidelity.ElementError
    too_noisy: bool  # its 8-bit encoding costs too much precision
    better_in_bfloat16: bool = False  # than in float16

    @property
    def relative_error(self) -> float:
        return (self.squared_error / self.plan.energy) ** 0.5 if self.plan.energy else 0.0


class Engine:
    """The passes of one file on one device."""

    def __init__(self, source: Source, device: str, progress: ReportProgress) -> None:
        torch.set_num_threads(1)
        self.source = source
        self.device = torch.device(device)
        is_cuda = self.device.type == "cuda"
        self.threads = cuda.THREADS if is_cuda else available_cores()
        self._batch_elements = cuda.ELEMENTS if is_cuda else ELEMENTS
        self.clock = Clock(self.threads)
        self._cores: dict[str, spectrum.Core] = {}
        self._budget = MemoryBudget(max(MEMORY, self.threads * MEMORY_OF_A_CORE))
        self._progress = progress

    def first_pass(self, p: Parameters) -> list[Reading]:
        """Return a reading per module, with its spectrum, in file order.

        Raises Failed(`not_finite`) with the name of the first bad module.
        """
        modules = self.source.layout.modules
        together = batches(modules, self._form, _elements, self._batch_elements)
        read = self._map("spectrum", lambda batch: self._read(batch, p), together, len(modules))
        found = {r.module.name: r for r in self._keep_cores(read)}
        bad = [m.name for m in modules if m.name not in found]
        if bad:
            raise Failed(
                Reason.NOT_FINITE,
                f"{len(bad)} of {len(modules)} modules have NaN or infinite weights, the first "
                f"is {bad[0]}; the file is broken: download or train it again",
            )
        return [found[m.name] for m in modules]

    def read_composites(self) -> list[CompositeReading]:
        """Return a reading per module of LoHa, LoKr and Tucker."""

        def work(module: Composite) -> list[CompositeReading]:
            with self.clock.measure("read"):
                stored = self.source.parts(module)
                alpha = self.source.alpha(module)
            with self.clock.measure("compute"):
                return [composites.read(module, stored, alpha)]

        found = self.source.layout.composites
        return list(self._map("spectrum", work, found, len(found)))

    def reduce(self, plan: Plan, output: Output) -> list[Measured]:
        """Compress every module into `output`, and measure it as a loader computes it.

        `verify` proves that these bytes are on the disk. Raises Failed (`verify_failed`,
        `not_finite`) if a module differs from its plan.
        """

        def work(batch: Sequence[ModulePlan]) -> list[Measured]:
            reduced, measured = self._reduce(batch)
            with self.clock.measure("write"):
                for key, tensor in self._on_cpu(
                    item for r in reduced for item in r.tensors.items()
                ):
                    output.write(key, as_bytes(tensor))
            return measured

        results = self._of_plan(plan, work) + self._reduce_composites(plan, output)
        with self.clock.measure("write"):
            for key in plan.untouched:
                output.copy(key, self.source.fd, self.source.header)
        for m in results:
            if not m.too_noisy:  # such modules are reduced again, in another encoding
                _check_error(m)
        return results

    def rehearse(self, plan: Plan) -> list[Measured]:
        """Measure the modules of the output without writing it."""
        modules = self._of_plan(plan, lambda batch: self._reduce(batch)[1])
        return modules + self._reduce_composites(plan)

    def _reduce_composites(self, plan: Plan, output: Output | None = None) -> list[Measured]:
        """Convert and measure them, and write them if there is an output."""

        def work(m: CompositePlan) -> list[Measured]:
            with self.clock.measure("read"):
                stored = self.source.parts(m.module)
            with self.clock.measure("compute"):
                reduced = composites.reduce(m, stored)
            if output:
                with self.clock.measure("write"):
                    for key, tensor in reduced.tensors.items():
                        output.write(key, as_bytes(tensor))
                    if m.module.alpha:
                        output.copy(m.module.alpha, self.source.fd, self.source.header)
            error, noise = reduced.squared_error, reduced.squared_noise
            none = fidelity.ElementError()
            return [Measured(m, error, m.energy * m.retained, noise, none, too_noisy=False)]

        return list(self._map("reduce", work, plan.composites, len(plan.composites)))

    def verify(self, output: Output, plan: Plan) -> None:
        """Read the output back and compare it. Raises Failed(`verify_failed`)."""
        began = time.monotonic()
        readback.verify(output, plan, self._progress)
        self.clock.spent["verify"] = time.monotonic() - began

    def seconds(self) -> Seconds:
        """Return the seconds of each stage, averaged over the threads."""
        read, compute, write, verify = (
            round(self.clock.spent.get(kind, 0.0), 4)
            for kind in ("read", "compute", "write", "verify")
        )
        return Seconds(read=read, compute=compute, write=write, verify=verify)

    def _form(self, module: Module) -> tuple[object, ...]:
        """Return what the modules of one batch have in common."""
        dtypes = self.source.specs[module.up].dtype, self.source.specs[module.down].dtype
        return module.out_features, module.rank, module.in_features, dtypes

    def _read(self, modules: Sequence[Module], p: Parameters) -> list[Reading | None]:
        with self._budget.take(_memory(modules)):
            return self._read_batch(modules, p)

    def _read_batch(self, modules: Sequence[Module], p: Parameters) -> list[Reading | None]:
        with self.clock.measure("read"):
            stored = self._on_device(self.source.matrices(modules))
            alphas = [self.source.alpha(m) for m in modules]
        with self.clock.measure("compute"):
            found = read_modules(modules, *stored, alphas, own_energy(p))
            return [r and _with_leading_columns(r, p) for r in found]

    def _keep_cores(self, readings: Iterable[Reading | None]) -> Iterator[Reading]:
        """Keep the cores of the first readings, up to KEPT_BYTES, and yield readings without core.

        Which cores are kept depends on the order of the batches only.
        """
        room = KEPT_BYTES
        for reading in readings:
            if reading is None or reading.core is None:
                continue
            room -= spectrum.core_bytes(reading.core)
            if room >= 0:
                self._cores[reading.module.name] = reading.core
            yield replace(reading, core=None)

    def _of_plan(
        self, plan: Plan, work: Callable[[Sequence[ModulePlan]], list[Measured]]
    ) -> list[Measured]:
        """Run `work` on batches of a plan's modules; return its results in the plan's order.

        Modules of similar rank share a batch, because they are padded to the largest rank in it.
        """
        together = batches(
            sorted(plan.modules, key=lambda m: m.rank),
            lambda m: (*self._form(m.module), *compress.alike(m)),
            _elements_at_work,
            self._batch_elements,
        )
        results = self._map("reduce", work, together, len(plan.modules))
        found = {m.plan.module.name: m for m in results}
        return [found[m.module.name] for m in plan.modules]

    def _reduce(self, plans: Sequence[ModulePlan]) -> tuple[list[compress.Reduced], list[Measured]]:
        with self._budget.take(_memory([m.module for m in plans])):
            return self._reduce_batch(plans)

    def _reduce_batch(
        self, plans: Sequence[ModulePlan]
    ) -> tuple[list[compress.Reduced], list[Measured]]:
        with self.clock.measure("read"):
            stored = self._on_device(self.source.matrices([m.module for m in plans]))
        with self.clock.measure("compute"):
            stored = compress.prepare(plans[0], stored)
            cores = [self._cores.get(m.module.name) for m in plans]
            reduced = compress.reduce_all(plans, stored, cores)
            errors = compress.squared_errors(reduced, stored, cores)
        pairs = zip(reduced, errors, strict=True)
        return reduced, [
            Measured(
                r.plan,
                e,
                r.squared_signal,
                r.squared_error,
                r.elements,
                r.too_noisy,
                r.better_in_bfloat16,
            )
            for r, e in pairs
        ]

    def _on_device(self, factors: Factors) -> Factors:
        if self.device.type == "cpu":
            return factors
        return Factors(*cuda.to_device(factors, self.device))

    def _on_cpu(self, tensors: Iterable[tuple[str, Tensor]]) -> Iterable[tuple[str, Tensor]]:
        if self.device.type == "cpu":
            return tensors
        keys, values = zip(*tensors, strict=True)
        return zip(keys, cuda.to_cpu(values), strict=True)

    def _map(
        self, stage: str, work: Callable[[T], Iterable[R]], items: Iterable[T], of: int
    ) -> Iterator[R]:
        """Yield the results of all items, in their order; progress counts `of` results."""
        with single_threaded_pool(self.threads) as pool:
            results = (result for part in pool.map(work, items) for result in part)
            for done, result in enumerate(results, 1):
                self._progress(stage, done, of)
                yield result
        memory.return_freed_memory()  # the next pass needs blocks of other sizes


def _memory(batch: Sequence[Module]) -> float:
    """Predict the bytes that modules of one shape take at the worst moment."""
    return len(batch) * cost.of_module(batch[0]).memory


def _elements(module: Module) -> int:
    return module.rank * (module.out_features + module.in_features)


def _elements_at_work(m: ModulePlan) -> int:
    """Count the elements of the factors before and after, and of the results between them."""
    return _elements(m.module) // m.module.rank * max(m.module.rank, 3 * m.rank)


def _with_leading_columns(reading: Reading, p: Parameters) -> Reading:
    """Drop the singular vectors that no plan needs."""
    if reading.core is None:
        return reading
    return replace(reading, core=spectrum.leading(reading.core, columns(reading, p)))


def single_threaded_pool(threads: int) -> ThreadPoolExecutor:
    """Return a pool whose threads use one core each for torch operations.

    Each thread sets this at its start. Otherwise torch splits the first products between cores, and
    their rounding differs from run to run.
    """
    return ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))


def available_cores() -> int:
    return max(1, len(os.sched_getaffinity(0)))


def _check_error(m: Measured) -> None:
    """Compare a module's error with the bound from truncation and rounding (triangle inequality).

    Raises Failed(`verify_failed`), or Failed(`not_finite`) where the output's number format cannot
    hold the module.
    """
    if not math.isfinite(m.squared_noise):
        raise Failed(
            Reason.NOT_FINITE,
            f"the weights of module {m.plan.module.name}, times alpha / rank ({m.plan.scale:.3g}), "
            f"are too large for {m.plan.encoding}; the file is broken: download or train it again",
        )
    planned = (m.plan.energy * (1 - m.plan.retained)) ** 0.5 + m.squared_noise**0.5
    allowed = planned + VERIFY_SLACK * m.plan.energy**0.5 + SMALLEST_NORM
    if not m.squared_error**0.5 <= allowed:  # also when it is NaN
        raise Failed(
            Reason.VERIFY_FAILED,
            f"module {m.plan.module.name} of the output differs from the original by "
            f"{m.relative_error:.3g} of its norm, more than planned; nothing was replaced. "
            "Please report this with the file's name",
        )
