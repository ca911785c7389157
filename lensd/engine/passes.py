"""Run one pass or two over the modules of a file, with a pool of independent tasks.

Each task has one intra-op thread: on a busy machine several OpenMP threads spin, and the same work
takes ten times longer. A task has a few modules of one shape, so that memory does not grow with the
file, and its result does not depend on the number of tasks that run at the same time. Both ways
compute a module beside the same others, and so to the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import torch

from lensd.engine import cuda, readback
from lensd.engine.attempt import Attempt, Finished
from lensd.engine.measured import Measured, check_error
from lensd.engine.memory_budget import MemoryBudget
from lensd.engine.pool import Clock, map_in_order, threads_of
from lensd.engine.readback import as_bytes
from lensd.engine.reader import Source
from lensd.engine.reducing import Reduction, elements, reduce_batch
from lensd.errors import Failed, Reason
from lensd.logs.measures import Seconds
from lensd.lora import composites, compress, cost, fidelity, spectrum
from lensd.lora.batches import batches
from lensd.lora.composite_layout import Composite
from lensd.lora.composites import CompositePlan, CompositeReading
from lensd.lora.drafts import Draft
from lensd.lora.int8 import Factors
from lensd.lora.layout import Module
from lensd.lora.parameters import Parameters
from lensd.lora.plan import ModulePlan, Plan, Reading
from lensd.lora.rank_choice import columns, own_energy
from lensd.lora.reading import read_modules
from lensd.lora.spectrum import Core
from lensd.lora.tensor_order import width
from lensd.store.header import tensor_bytes
from lensd.store.tensors import Output, offsets
from lensd.worker import memory
from lensd.worker.protocol import ReportProgress

T = TypeVar("T")
R = TypeVar("R")

# Predicted bytes of the batches that are computed at once. A common batch takes less than a core's
# share, so that none waits for another.
MEMORY, MEMORY_OF_A_CORE = 512.0 * 2**20, 128.0 * 2**20
# Memory for results of the first pass that the second pass needs; it computes the others again.
KEPT_BYTES = 24 * 2**20


class Engine:
    """The passes of one file on one device. `processes`: how many share the cores."""

    def __init__(
        self, source: Source, device: str, progress: ReportProgress, processes: int = 1
    ) -> None:
        torch.set_num_threads(1)
        self.source = source
        self.device = torch.device(device)
        self.threads = cuda.THREADS if self.device.type == "cuda" else threads_of(processes)
        self.clock = Clock(self.threads)
        self._batches: list[list[Module]] = []
        self._parameters = Parameters()
        self._cores: dict[str, Core] = {}  # of whole batches, by the names of modules
        self._free_bytes = KEPT_BYTES  # for cores
        self._budget = MemoryBudget(max(MEMORY, self.threads * MEMORY_OF_A_CORE))
        self._progress = progress

    @property
    def order(self) -> list[str]:
        """The names of the modules in the order in which they are read."""
        return [m.name for batch in self._batches for m in batch]

    def first_pass(self, p: Parameters, draft: Draft | None = None) -> list[Reading]:
        """Return a reading per module, with its spectrum, in file order.

        With a draft the batches are those of `single_pass`. Raises Failed(`not_finite`) with the
        name of the first bad module.
        """
        self._begin(p, draft)
        found: list[Reading] = []
        for batch, readings in self._map("spectrum", self._read, self._batches):
            self._keep_cores(batch, readings)
            found += (r.without_core() for r in readings if r)
        return self._in_file_order(found)

    def single_pass(self, draft: Draft, output: Output | None) -> Attempt:
        """Read, reduce and measure every module by the draft; write the factors, if to an output.

        From the first module on that the draft does not fit, modules are only read. Raises
        Failed(`not_finite`) as `first_pass` does.
        """
        self._begin(draft.parameters, draft)
        attempt, end, fits = Attempt(), 0, True
        before = {width_: _bytes_before(draft, width_) for width_ in draft.widths}

        def work(batch: Sequence[Module]) -> Finished:
            return self._read_and_reduce(batch, draft if fits else None)

        for batch, (readings, reduced) in self._map("compress", work, self._batches):
            fits = fits and reduced is not None
            if not fits or draft.parameters.strict_energy:  # it mostly needs another attempt
                self._keep_cores(batch, readings)
            attempt.readings += (r.without_core() for r in readings if r)
            if not fits or reduced is None:
                continue
            attempt.measured |= {m.plan.module.name: m for m in reduced.measured}
            attempt.alphas |= reduced.alphas
            if output:
                start = before[draft.width(batch[0])]
                with self.clock.measure("write"):
                    end = output.write(start + end, reduced.factors) - start
        attempt.readings = self._in_file_order(attempt.readings)
        return attempt

    def complete(self, attempt: Attempt, plan: Plan, output: Output | None) -> list[Measured]:
        """Write what a single pass that fits the plan has not written; check all errors."""
        if output:
            starts = _starts(plan)
            with self.clock.measure("write"):
                output.write_apart(starts, attempt.alphas)
            self._copy_untouched(plan, output)
        return _checked([attempt.measured[m.module.name] for m in plan.modules])

    def read_composites(self) -> list[CompositeReading]:
        """Return a reading per module of LoHa, LoKr and Tucker."""

        def work(modules: Sequence[Composite]) -> list[CompositeReading]:
            with self.clock.measure("read"):
                stored = [self.source.parts(m) for m in modules]
                alphas = [self.source.alpha(m) for m in modules]
            with self.clock.measure("compute"):
                return [
                    composites.read(*each) for each in zip(modules, stored, alphas, strict=True)
                ]

        found = [[m] for m in self.source.layout.composites]
        return [r for _, (r,) in self._map("spectrum", work, found)]

    def reduce(self, plan: Plan, output: Output) -> list[Measured]:
        """Compress every module into `output`, and measure it as a loader computes it.

        `verify` proves that these bytes are on the disk. Raises Failed (`verify_failed`,
        `not_finite`) if a module differs from its plan.
        """
        starts = _starts(plan)

        def write(reduced: Reduction) -> None:
            with self.clock.measure("write"):
                output.write_apart(starts, dict(reduced.factors) | reduced.alphas)

        results = self._reduce_plan(plan, write) + self._reduce_composites(plan, starts, output)
        self._copy_untouched(plan, output)
        return _checked(results)

    def rehearse(self, plan: Plan) -> list[Measured]:
        """Measure the modules of the output without writing it."""
        modules = self._reduce_plan(plan, lambda _: None)
        return modules + self._reduce_composites(plan, {})

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

    def _begin(self, p: Parameters, draft: Draft | None) -> None:
        """Group the modules into batches; by a draft those of the widest output come first."""
        together = batches(
            self.source.layout.modules,
            lambda m: self._form(m, draft),
            elements,
            cuda.batch_elements(self.device),
        )
        if draft:
            together.sort(key=lambda batch: -draft.width(batch[0]))
        self._parameters, self._batches = p, together

    def _form(self, module: Module, draft: Draft | None) -> tuple[object, ...]:
        """Return what the modules of one batch have in common."""
        dtypes = self.source.specs[module.up].dtype, self.source.specs[module.down].dtype
        width = draft.width(module) if draft else 0
        return module.out_features, module.rank, module.in_features, dtypes, width

    def _in_file_order(self, found: Iterable[Reading]) -> list[Reading]:
        """Return readings in the order of the modules, or raise Failed(`not_finite`)."""
        by_name = {r.module.name: r for r in found}
        modules = self.source.layout.modules
        bad = [m.name for m in modules if m.name not in by_name]
        if bad:
            raise Failed(
                Reason.NOT_FINITE,
                f"{len(bad)} of {len(modules)} modules have NaN or infinite weights, the first "
                f"is {bad[0]}; the file is broken: download or train it again",
            )
        return [by_name[m.name] for m in modules]

    def _read(self, modules: Sequence[Module]) -> list[Reading | None]:
        with self._budget.take(_memory(modules)):
            return self._read_stored(modules, self._load(modules))

    def _read_and_reduce(self, modules: Sequence[Module], draft: Draft | None) -> Finished:
        with self._budget.take(_memory(modules)):
            stored = self._load(modules)
            readings = self._read_stored(modules, stored)
            with self.clock.measure("compute"):
                sound = [r for r in readings if r]
                planned = draft and len(sound) == len(readings) and draft.plan(sound)
                if not planned:
                    return Finished(readings, None)
                return Finished(readings, reduce_batch(planned, stored, [r.core for r in sound]))

    def _load(self, modules: Sequence[Module]) -> Factors:
        with self.clock.measure("read"):
            stored = self.source.matrices(modules)
            if self.device.type == "cpu":
                return stored
            return Factors(*cuda.to_device(stored, self.device))

    def _read_stored(self, modules: Sequence[Module], stored: Factors) -> list[Reading | None]:
        with self.clock.measure("compute"):
            alphas = [self.source.alpha(m) for m in modules]
            return read_modules(modules, *stored, alphas, own_energy(self._parameters))

    def _keep_cores(self, batch: Sequence[Module], readings: Sequence[Reading | None]) -> None:
        """Keep the cores of the first batches, up to KEPT_BYTES, with the vectors that plans need.

        Which cores are kept depends on the order of the batches only.
        """
        if self._free_bytes <= 0:
            return
        sound = [r for r in readings if r]
        most = max((columns(r, self._parameters) for r in sound), default=0)
        cores = spectrum.leading([r.core for r in sound if r.core], most)
        self._free_bytes -= sum(map(spectrum.core_bytes, cores))
        if self._free_bytes >= 0 and len(cores) == len(batch):
            self._cores |= {m.name: core for m, core in zip(batch, cores, strict=True)}

    def _reduce_plan(self, plan: Plan, write: Callable[[Reduction], None]) -> list[Measured]:
        """Reduce and write a plan's modules, in the batches of the first pass."""
        planned = {m.module.name: m for m in plan.modules}

        def work(modules: Sequence[Module]) -> list[Measured]:
            # Modules that are reduced together lie together, so that none has to be copied.
            plans = sorted((planned[m.name] for m in modules), key=_alike)
            with self._budget.take(_memory(modules)):
                stored = self._load([m.module for m in plans])
                cores = self._find_cores(plans, stored)
                with self.clock.measure("compute"):
                    reduced = reduce_batch(plans, stored, cores)
            write(reduced)
            return reduced.measured

        results = self._map("reduce", work, self._batches)
        found = {m.plan.module.name: m for _, batch in results for m in batch}
        return [found[m.module.name] for m in plan.modules]

    def _find_cores(self, plans: Sequence[ModulePlan], stored: Factors) -> Sequence[Core | None]:
        """Return the cores that the first pass kept, or compute them again."""
        if not any(m.needs_core for m in plans):
            return [None] * len(plans)
        kept = [self._cores[name] for m in plans if (name := m.module.name) in self._cores]
        if len(kept) == len(plans):
            return kept
        return [r.core if r else None for r in self._read_stored([m.module for m in plans], stored)]

    def _reduce_composites(
        self, plan: Plan, starts: Mapping[str, int], output: Output | None = None
    ) -> list[Measured]:
        """Convert and measure them, and write them if there is an output."""

        def work(plans: Sequence[CompositePlan]) -> list[Measured]:
            return [self._reduce_composite(m, starts, output) for m in plans]

        every = [[m] for m in plan.composites]
        return [measured for _, (measured,) in self._map("reduce", work, every)]

    def _reduce_composite(
        self, m: CompositePlan, starts: Mapping[str, int], output: Output | None
    ) -> Measured:
        with self.clock.measure("read"):
            stored = self.source.parts(m.module)
        with self.clock.measure("compute"):
            reduced = composites.reduce(m, stored)
        if output:
            with self.clock.measure("write"):
                for key, tensor in reduced.tensors.items():
                    output.write(starts[key], [(key, as_bytes(tensor))])
                if m.module.alpha:
                    self._copy(m.module.alpha, starts, output)
        error, noise = reduced.squared_error, reduced.squared_noise
        none = fidelity.ElementError()
        return Measured(m, error, m.energy * m.retained, noise, none, too_noisy=False)

    def _copy_untouched(self, plan: Plan, output: Output) -> None:
        starts = _starts(plan)
        with self.clock.measure("write"):
            for key in plan.untouched:
                self._copy(key, starts, output)

    def _copy(self, key: str, starts: Mapping[str, int], output: Output) -> None:
        output.copy(starts[key], key, self.source.fd, self.source.header)

    def _map(
        self, stage: str, work: Callable[[Sequence[T]], R], items: Sequence[Sequence[T]]
    ) -> Iterator[tuple[Sequence[T], R]]:
        """Yield the batches and their results, in their order; progress counts modules."""
        done, of = 0, sum(map(len, items))
        for batch, result in zip(items, map_in_order(self.threads, work, items), strict=True):
            yield batch, result
            for _ in batch:
                done += 1
                self._progress(stage, done, of)
        memory.return_freed_memory()  # the next pass needs blocks of other sizes


def _checked(results: list[Measured]) -> list[Measured]:
    """Check the errors; modules that are too noisy are reduced again, in another encoding."""
    for m in results:
        if not m.too_noisy:
            check_error(m)
    return results


def _bytes_before(draft: Draft, width_: int) -> int:
    """Return the bytes of the tensors that are no factors and come before factors of this width."""
    return sum(tensor_bytes(*spec) for spec in draft.others.values() if width(spec) >= width_)


def _starts(plan: Plan) -> dict[str, int]:
    """Return where the data of each tensor of the output begins."""
    return offsets([(key, *spec) for key, spec in plan.tensors])


def _alike(m: ModulePlan) -> tuple[object, ...]:
    """Return what the modules that the kernels reduce with one call have in common."""
    return compress.alike(m, one_by_one=True)


def _memory(batch: Sequence[Module]) -> float:
    """Predict the bytes that modules of one shape take at the worst moment."""
    return len(batch) * cost.of_module(batch[0]).memory
