"""What the worker does with one file: compress it into a staged output, or analyze it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from msgspec import structs

from lensd import __version__
from lensd.engine import findings, measures, plans
from lensd.engine.best_device import compute_on_best_device
from lensd.engine.measured import Measured
from lensd.engine.measures import Original
from lensd.engine.passes import Engine
from lensd.engine.reader import Source
from lensd.errors import Kept, PartialMeasures, Reason, Skipped
from lensd.logs.measures import Analyzed, Compressed, Detailed, Measures
from lensd.lora.drafts import Draft
from lensd.lora.metadata import Origin, with_error
from lensd.lora.parameters import Parameters
from lensd.lora.plan import Findings, Plan
from lensd.store.hashing import sha256_of
from lensd.store.tensors import Output, empty_temporary
from lensd.worker.protocol import ReportProgress
from lensd.worker.request import AnalyzeRequest, AnyRequest, CompressRequest

M = TypeVar("M", bound=Measures)


def no_progress(stage: str, done: int, of: int) -> None:
    """Report no progress."""


def compress(request: CompressRequest, progress: ReportProgress = no_progress) -> Compressed:
    """Fill the staged output `temporary` and measure it. Publishes nothing.

    Raises Skipped, Failed or Kept (`no_gain`, `max_error`); the caller removes the temporary.
    """
    with Source.open(request.path, request.identity) as source:
        return compute_on_best_device(source, request, lambda e: _compress(e, request), progress)


def analyze(request: AnalyzeRequest, progress: ReportProgress = no_progress) -> Analyzed:
    """The same measures without an output, and the bytes that each mode would give."""
    with Source.open(request.path, request.identity) as source:
        return compute_on_best_device(source, request, lambda e: _analyze(e, request)[0], progress)


def analyze_in_detail(request: AnalyzeRequest, progress: ReportProgress = no_progress) -> Detailed:
    """As `analyze`, with every module."""

    def work(engine: Engine) -> Detailed:
        found, original = _analyze(engine, request)
        details = [measures.module(reading) for reading in original.readings]
        return Detailed(**structs.asdict(found), details=details)

    with Source.open(request.path, request.identity) as source:
        return compute_on_best_device(source, request, work, progress)


def _compress(engine: Engine, request: CompressRequest) -> Compressed:
    source, p = engine.source, request.parameters
    if request.adapter_config and source.layout.naming == "peft":
        raise _has_adapter_config()
    draft = plans.make_draft(source, p)
    least = plans.least_header(source, draft, _origin(source, request))
    written: _Written | Findings = Findings()
    if draft:
        original, chosen, written = _write_in_single_pass(engine, request, draft, least)
    else:
        original = _first_pass(engine, request, p)
    while not isinstance(written, _Written):
        found = written
        chosen = plans.choose(source, original, p, found)
        plans.require_modules(chosen)
        written = _write(engine, request, original, chosen, found, least)
    _check_error(written.measured, original, request)
    return measures.of_output(
        engine, original, chosen, written.measured, written.sha256, written.size
    )


def _first_pass(engine: Engine, request: AnyRequest, p: Parameters) -> Original:
    """Read the spectra, and hash the file in a thread beside it."""
    source = engine.source
    with _hashing(source) as hashing:
        readings = engine.first_pass(p)
        composites = engine.read_composites()
        sha256 = hashing.result()
    return Original(_origin(source, request, sha256), readings, composites, engine.order)


@contextmanager
def _hashing(source: Source) -> Iterator[Future[str]]:
    """Hash the original in a thread."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(sha256_of, source.fd)


def _origin(source: Source, request: AnyRequest, sha256: str = "0" * 64) -> Origin:
    """Return what the marks of an output record; without the hash it has the same length."""
    return Origin(
        sha256=sha256,
        bytes=source.identity.size,
        name=request.name,
        version=__version__,
        mode=request.parameters.mode,
        energy=request.parameters.energy,
    )


@dataclass(frozen=True, slots=True)
class _Planned:
    """An output before it is complete. `found`: what earlier attempts found."""

    original: Original
    chosen: Plan
    header: plans.OutputHeader
    size: int
    found: Findings


@dataclass(frozen=True, slots=True)
class _Written:
    """An output that was completed."""

    measured: list[Measured]
    sha256: str
    size: int


def _single_pass(
    engine: Engine, request: AnyRequest, draft: Draft, output: Output | None
) -> tuple[Original, Plan, list[Measured] | None]:
    """Compute a file by its draft, and hash it beside that.

    Returns what is known of it, the plan, and the modules, in its order, if the draft is the plan.
    """
    source = engine.source
    with _hashing(source) as hashing:
        attempt = engine.single_pass(draft, output)
        sha256 = hashing.result()
    origin = _origin(source, request, sha256)
    original = Original(origin, attempt.readings, [], engine.order)
    chosen = plans.choose(source, original, draft.parameters, Findings())
    if not attempt.fits(chosen):
        return original, chosen, None
    return original, chosen, engine.complete(attempt, chosen, output)


def _write_in_single_pass(
    engine: Engine, request: CompressRequest, draft: Draft, least: int
) -> tuple[Original, Plan, _Written | Findings]:
    """Fill the temporary while the file is read; or return what the next attempt needs to know."""
    with Output(request.temporary, request.temporary_inode, least) as output:
        original, chosen, measured = _single_pass(engine, request, draft, output)
        written: _Written | Findings = Findings()
        planned = _plan_output(engine, request, original, chosen, Findings(), least)
        if measured and planned.size == output.size:
            written = _finish(engine, request, planned, measured, output)
    if not isinstance(written, _Written):
        empty_temporary(request.temporary, request.temporary_inode)
    return original, chosen, written


def _write(
    engine: Engine,
    request: CompressRequest,
    original: Original,
    chosen: Plan,
    found: Findings,
    least: int,
) -> _Written | Findings:
    """Fill the temporary, and read it back; or return what the next attempt needs to know."""
    planned = _plan_output(engine, request, original, chosen, found, least)
    header_bytes = planned.size - planned.header.data_bytes()
    with Output(request.temporary, request.temporary_inode, header_bytes) as output:
        measured = engine.reduce(chosen, output)
        written = _finish(engine, request, planned, measured, output)
    if not isinstance(written, _Written):  # rare, except with `strict_energy`
        empty_temporary(request.temporary, request.temporary_inode)
    return written


def _plan_output(
    engine: Engine,
    request: CompressRequest,
    original: Original,
    chosen: Plan,
    found: Findings,
    least: int,
) -> _Planned:
    """Make the header. Raises Kept(`no_gain`)."""
    header = plans.OutputHeader.of(engine.source, chosen, original.origin)
    size = header.file_bytes(least)
    _check_gain(size, original, chosen, request.min_saving)
    return _Planned(original, chosen, header, size, found)


def _finish(
    engine: Engine,
    request: CompressRequest,
    planned: _Planned,
    measured: list[Measured],
    output: Output,
) -> _Written | Findings:
    """Write the header, flush the output and read it back, unless there is a better attempt."""
    readings, p = planned.original.readings, request.parameters
    better = findings.of_attempt(measured, readings, p, planned.found)
    if better is not None:
        return better
    with engine.clock.measure("write"):
        metadata = with_error(planned.header.metadata, measures.delta_error(measured))
        output.finish(planned.header.tensors, metadata)
        output.sync()
    with ThreadPoolExecutor(1) as pool:
        hashing = pool.submit(output.sha256)
        engine.verify(output, planned.chosen)
    return _Written(measured, hashing.result(), output.size)


def _analyze(engine: Engine, request: AnalyzeRequest) -> tuple[Analyzed, Original]:
    """Rehearse mode ultra: the plan that `compress` ends with, and its measures."""
    source, p = engine.source, request.parameters
    best = replace(p, mode="ultra")
    draft = plans.make_draft(source, best)
    found, measured = Findings(), None
    if draft:
        original, chosen, measured = _single_pass(engine, request, draft, None)
    else:
        original = _first_pass(engine, request, best)
    while True:
        if measured is None:
            chosen = plans.choose(source, original, best, found)
            plans.require_modules(chosen)
            measured = engine.rehearse(chosen)
        better = findings.of_attempt(measured, original.readings, best, found)
        if better is None:
            break
        found, measured = better, None
    predicted = plans.predicted(source, original, p, found)
    return measures.of_rehearsal(engine, original, chosen, measured, predicted), original


def _has_adapter_config() -> Skipped:
    """peft keeps ranks and alpha in a second file, which would have to change too."""
    return Skipped(
        Reason.ADAPTER_CONFIG,
        "an adapter_config.json beside it fixes rank and strength for peft, and lensd changes no "
        "other file; move the LoRA to a folder of its own, or use `lensd compress` on a copy",
    )


def _check_gain(size: int, original: Original, chosen: Plan, min_saving: float) -> None:
    origin, forced_by = original.origin, ", ".join(chosen.forced_by)
    saving = 1 - size / origin.bytes
    if size < origin.bytes and saving >= min_saving:
        return
    why = f" ({forced_by}: not known to load 8 bits exactly from it)" if forced_by else ""
    raise Kept(
        Reason.NO_GAIN,
        f"compressing would save {max(saving, 0):.1%}, less than `min_saving` "
        f"({min_saving:.0%}){why}; the original stays as it is",
        measures=PartialMeasures(bytes_in=origin.bytes, sha256_in=origin.sha256),
    )


def _check_error(measured: list[Measured], original: Original, request: CompressRequest) -> None:
    error, p = measures.delta_error(measured), request.parameters
    known = PartialMeasures(
        bytes_in=original.origin.bytes, sha256_in=original.origin.sha256, delta_error=error
    )
    if request.max_error is not None and error > request.max_error:
        raise Kept(
            Reason.MAX_ERROR,
            f"the relative delta error would be {error:.4f}, above `max_error` "
            f"({request.max_error:g}); the original stays. A higher `energy` or mode `rank` lowers "
            "it",
            measures=known,
        )
    if not findings.is_strict_enough(measured, p):
        raise Kept(
            Reason.STRICT_ENERGY,
            f"no rank and no encoding keeps the error below {(1 - p.energy) ** 0.5:.4f}, as "
            "`strict_energy` requires; the original stays. Lower `energy`, raise `max_rank`, or "
            "set `strict_energy: false`",
            measures=known,
        )
