"""What the worker is asked to do with one file: compress it into a staged output, or analyze it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch

from lensd import __version__
from lensd.engine import measures
from lensd.engine.passes import Engine, Measured, available_cores
from lensd.engine.reader import Source
from lensd.errors import Failed, FileError, Kept, Skipped
from lensd.lora import rank
from lensd.lora.layout import ITEM_SIZE, Module
from lensd.lora.metadata import Origin, output_metadata
from lensd.lora.planning import Parameters, Plan, Reading, plan
from lensd.store.hashing import hashes_of
from lensd.store.tensors import Output, TensorEntry, open_temporary, output_bytes
from lensd.worker import device as devices
from lensd.worker.protocol import Progress

Numbers = measures.Numbers

ENERGIES = (0.9, 0.95, 0.99, 0.999)
MODES = ("rank", "int8", "ultra")


def silent(stage: str, done: int, of: int) -> None:
    """Progress for nobody."""


def parameters(fields: Mapping[str, Any]) -> Parameters:
    """Parameters from a message's JSON."""
    return Parameters(**{**fields, "targets": tuple(fields["targets"])})


def compress(request: Mapping[str, Any], progress: Progress = silent) -> Numbers:
    """Fill the staged output `temporary` and measure it. Publishes nothing.

    Raises Skipped, Failed or Kept (`no_gain`, `max_error`); the temporary is the caller's.
    """
    with Source.open(request["path"], request.get("identity")) as source:
        return _on_best_device(source, request, lambda e: _compress(e, request), progress)


def analyze(request: Mapping[str, Any], progress: Progress = silent) -> Numbers:
    """The same measures without an output, and the bytes that each mode would give."""
    with Source.open(request["path"], request.get("identity")) as source:
        return _on_best_device(source, request, lambda e: _analyze(e, request), progress)


def _on_best_device(
    source: Source,
    request: Mapping[str, Any],
    work: Callable[[Engine], Numbers],
    progress: Progress,
) -> Numbers:
    device = devices.choose(request["device"], _predicted_seconds(source), _cuda_free())
    try:
        if device == "cpu":
            return _on_cpu(lambda: work(Engine(source, "cpu", progress)))
        if not torch.cuda.is_available():
            note = f"there is no {device} here; computed on the CPU"
            return _on_cpu(lambda: work(Engine(source, "cpu", progress))) | {"device_note": note}
        try:
            return work(Engine(source, device, progress)) | {"device": device}
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            _empty_again(request)
            note = f"{device} ran out of memory; computed on the CPU"
            return _on_cpu(lambda: work(Engine(source, "cpu", progress))) | {"device_note": note}
    except (FileError, RuntimeError, ArithmeticError):  # the last two: numbers that are no numbers
        if source.unchanged():
            raise
        raise _changed() from None  # whatever was wrong with it, it is another file by now


def _on_cpu(work: Callable[[], Numbers]) -> Numbers:
    try:
        return work() | {"device": "cpu"}
    except (MemoryError, RuntimeError) as error:
        # torch has no class of its own for what its CPU allocator says
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise _out_of_memory() from None
        raise


def _empty_again(request: Mapping[str, Any]) -> None:
    """Take back what a first try wrote into the temporary, if it is still that file."""
    if "temporary" not in request:
        return
    fd = open_temporary(request["temporary"], os.O_WRONLY)
    try:
        found = os.fstat(fd)
        if [found.st_dev, found.st_ino] == list(request["temporary_inode"]):
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def _compress(engine: Engine, request: Mapping[str, Any]) -> Numbers:
    source = engine.source
    if request.get("adapter_config") and source.layout.naming == "peft":
        raise _ruled_from_outside()
    p = parameters(request["parameters"])
    with ThreadPoolExecutor(1) as beside:
        hashing = beside.submit(hashes_of, source.fd, source.header.data_start)
        readings = engine.first_pass(p)
        hashes = hashing.result()
    origin = _origin(request, source, hashes.file, p)
    numbers, noisy = _written(engine, request, choose(source, readings, p, origin), origin)
    in_floats = set(noisy)
    while noisy:  # seldom: modules whose products of int8 elements would leave float16's range
        _empty_again(request)
        chosen = choose(source, readings, p, origin, in_floats)
        numbers, noisy = _written(engine, request, chosen, origin)
        in_floats |= noisy
    if not source.unchanged():
        raise _changed()
    _check_error(numbers, request["max_error"])
    numbers |= measures.of_readings(readings)
    return numbers | {"data_sha256_in": hashes.data, "seconds": engine.seconds()}


def _written(
    engine: Engine, request: Mapping[str, Any], chosen: Plan, origin: Origin
) -> tuple[Numbers, set[str]]:
    """Fill the temporary; the numbers of it, or the modules that int8 would cost too much."""
    old = engine.source.header.metadata
    tensors, header = entries(chosen), output_metadata(old, chosen, origin)
    numbers = measures.of_plan(chosen) | {"sha256_in": origin.sha256, "bytes_in": origin.bytes}
    _check_gain(output_bytes(tensors, header), numbers, request["min_saving"])
    with Output(request["temporary"], request["temporary_inode"], tensors, header) as output:
        measured = engine.reduce(chosen, output)
        if noisy := {m.plan.module.name for m in measured if m.too_noisy}:
            return {}, noisy
        error = measures.delta_error(measured)
        output.replace_metadata(output_metadata(old, chosen, origin, error))
        with engine.clock.measure("write"):
            output.sync()
        with ThreadPoolExecutor(1) as beside:
            hashing = beside.submit(output.hashes)
            engine.verify(output, chosen)
        hashes = hashing.result()
        numbers |= measures.of_output(measured)
        numbers |= {"sha256_out": hashes.file, "data_sha256_out": hashes.data}
        numbers |= {"bytes_out": output.size}
    return numbers, set()


def _analyze(engine: Engine, request: Mapping[str, Any]) -> Numbers:
    source = engine.source
    p = parameters(request["parameters"])
    best = replace(p, mode="ultra")
    with ThreadPoolExecutor(1) as beside:
        hashing = beside.submit(hashes_of, source.fd, source.header.data_start)
        readings = engine.first_pass(best)
        hashes = hashing.result()
    origin = _origin(request, source, hashes.file, p)
    chosen, measured, in_floats = _rehearsed(engine, readings, best, origin)
    numbers = measures.of_plan(chosen) | measures.of_output(measured)
    numbers |= measures.of_readings(readings)
    numbers |= {
        "sha256_in": origin.sha256,
        "data_sha256_in": hashes.data,
        "bytes_in": origin.bytes,
        "predicted": {
            m: predicted_bytes(source, readings, replace(p, mode=m), origin, in_floats)
            for m in MODES
        },
        "seconds": engine.seconds(),
    }
    if request.get("details"):
        numbers["details"] = [_detail(r) for r in readings]
    return numbers


def _rehearsed(
    engine: Engine, readings: list[Reading], p: Parameters, origin: Origin
) -> tuple[Plan, list[Measured], set[str]]:
    """The plan that `compress` ends with, its measures, and what int8 would cost too much."""
    in_floats: set[str] = set()
    while True:
        chosen = choose(engine.source, readings, p, origin, in_floats)
        measured = engine.rehearse(chosen)
        noisy = {m.plan.module.name for m in measured if m.too_noisy}
        if not noisy:
            return chosen, measured, in_floats
        in_floats |= noisy


def _detail(reading: Reading) -> Numbers:
    """One module for `lensd analyze`: its rank, and the rank for each energy."""
    return {
        "module": reading.module.name,
        "out": reading.module.out_features,
        "in": reading.module.in_features,
        "rank": reading.module.rank,
        "bytes": _bytes(reading.module),
        "alpha": reading.alpha,
        "norm": math.sqrt(reading.energy),
        "ranks": {str(e): rank.smallest_rank(reading.values, e) for e in ENERGIES},
        "spectrum": [float(f"{v:.6g}") for v in reading.values],
    }


def _bytes(module: Module) -> int:
    """Of its two factors, as the file has them."""
    return module.rank * (module.out_features + module.in_features) * ITEM_SIZE[module.dtype]


def choose(
    source: Source,
    readings: list[Reading],
    p: Parameters,
    origin: Origin,
    in_floats: Collection[str] = (),
) -> Plan:
    """The plan. Of a `target_size` the header, too, has to be paid, and it depends on the ranks."""
    chosen = plan(source.layout, source.specs, readings, p, in_floats)
    if p.target_size is None:
        return chosen
    left = p.target_size
    while any(m.rank > 1 and not m.keeps_rank for m in chosen.modules):
        excess = _size(source, chosen, replace(origin, mode=p.mode)) - p.target_size
        if p.mode == "int8" or excess <= 0:
            break
        left -= excess
        smaller = replace(p, target_size=left)
        chosen = plan(source.layout, source.specs, readings, smaller, in_floats)
    return chosen


def predicted_bytes(
    source: Source,
    readings: list[Reading],
    p: Parameters,
    origin: Origin,
    in_floats: Collection[str],
) -> int:
    """The size of the file that these parameters give, to the byte.

    A module that int8 costs too much at its full rank, but not at ultra's, is not foreseen.
    """
    chosen = choose(source, readings, p, origin, in_floats)
    return min(origin.bytes, _size(source, chosen, replace(origin, mode=p.mode)))


def _size(source: Source, chosen: Plan, origin: Origin) -> int:
    header = output_metadata(source.header.metadata, chosen, origin)
    return output_bytes(entries(chosen), header)


def entries(chosen: Plan) -> list[TensorEntry]:
    return [(key, spec.dtype, spec.shape) for key, spec in chosen.tensors]


def _origin(request: Mapping[str, Any], source: Source, digest: str, p: Parameters) -> Origin:
    return Origin(
        sha256=digest,
        bytes=source.identity.size,
        name=request["name"],
        version=__version__,
        mode=p.mode,
        energy=p.energy,
    )


def _changed() -> Skipped:
    return Skipped("changed", "the file was written to while it was read; it starts over")


def _ruled_from_outside() -> Skipped:
    """peft keeps ranks and alpha in a file beside: compressing would have to change that too."""
    return Skipped(
        "adapter_config",
        "an adapter_config.json beside it fixes rank and strength for peft, and lensd changes no "
        "other file; move the LoRA to a folder of its own, or use `lensd compress` on a copy",
    )


def _check_gain(size: int, numbers: Numbers, min_saving: float) -> None:
    saving = 1 - size / numbers["bytes_in"]
    if size < numbers["bytes_in"] and saving >= min_saving:
        return
    held = f" ({', '.join(numbers['forced_by'])} cannot load int8)" if numbers["forced_by"] else ""
    raise _with_measures(
        Kept(
            "no_gain",
            f"compressing would save {max(saving, 0):.1%}, less than `min_saving` "
            f"({min_saving:.0%}){held}; the original stays as it is",
        ),
        {k: numbers[k] for k in ("bytes_in", "sha256_in")},
    )


def _check_error(numbers: Numbers, max_error: float | None) -> None:
    if max_error is None or numbers["delta_error"] <= max_error:
        return
    raise _with_measures(
        Kept(
            "max_error",
            f"the relative delta error would be {numbers['delta_error']:.4f}, above `max_error` "
            f"({max_error:g}); the original stays. A higher `energy` or mode `rank` lowers it",
        ),
        {k: numbers[k] for k in ("bytes_in", "sha256_in", "delta_error")},
    )


def _with_measures(error: FileError, numbers: Numbers) -> FileError:
    error.measures = numbers
    return error


def _out_of_memory() -> Failed:
    return Failed(
        "out_of_memory",
        "there was not enough memory for this file; close other programs or add swap, "
        "then `lensd retry`",
    )


def _predicted_seconds(source: Source) -> float:
    work = sum((m.out_features + m.in_features) * m.rank**2 for m in source.layout.modules)
    return devices.predicted_cpu_seconds(work, available_cores())


def _cuda_free() -> int | None:
    return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else None
