"""What was measured of each module -> the measures of the file (lensd.logs.measures)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from msgspec import UNSET, UnsetType
from msgspec.structs import asdict

from lensd.engine.measured import Measured
from lensd.engine.passes import Engine
from lensd.logs.measures import (
    Analyzed,
    Block,
    Compressed,
    Encodings,
    Energy,
    FloatBecause,
    Measures,
    Module,
    Predicted,
    Ranks,
    Spectrum,
    UntouchedBecause,
)
from lensd.lora import blocks, fidelity, shapes, untouched
from lensd.lora.composites import CompositePlan, CompositeReading
from lensd.lora.curve import curve
from lensd.lora.metadata import Origin
from lensd.lora.plan import EIGHT_BITS, ModulePlan, Plan, Reading
from lensd.lora.tensor_spec import ITEM_SIZE

ENERGIES = (0.9, 0.95, 0.99, 0.999)  # of the table of `lensd analyze`


@dataclass(frozen=True, slots=True)
class Original:
    """What is known of a file after the first pass."""

    origin: Origin
    readings: list[Reading]
    composites: list[CompositeReading] = field(default_factory=list)
    order: Sequence[str] = ()  # of the names of modules, for the factors of the output


def of_output(
    engine: Engine,
    original: Original,
    plan: Plan,
    measured: Sequence[Measured],
    sha256: str,
    size: int,
) -> Compressed:
    """Of an output that was written and read back; it has this sha256 and `size` bytes."""
    return Compressed(
        **asdict(_common(engine, original, plan, measured)),
        dtype_out=_encoding(plan),
        bytes_out=size,
        delta_error=delta_error(measured),
        delta_error_max=_worst_error(measured),
        sha256_out=sha256,
    )


def of_rehearsal(
    engine: Engine,
    original: Original,
    plan: Plan,
    measured: Sequence[Measured],
    predicted: Predicted,
) -> Analyzed:
    """Of an output that was computed and not written."""
    return Analyzed(
        **asdict(_common(engine, original, plan, measured)),
        predicted=predicted,
        dtype_out=_encoding(plan),
        delta_error=delta_error(measured),
        delta_error_max=_worst_error(measured),
    )


def _common(
    engine: Engine, original: Original, plan: Plan, measured: Sequence[Measured]
) -> Measures:
    quantized = [m for m in measured if m.plan.encoding in EIGHT_BITS]
    elements = fidelity.ElementError()
    for m in quantized:
        elements.merge(m.elements)
    every = plan.all_modules
    return Measures(
        family=plan.layout.family,
        naming=plan.layout.naming,
        dtype_in=plan.layout.dtype,
        bytes_in=original.origin.bytes,
        modules=len(every),
        rank_in=_ranks([m.module.rank for m in every]),
        rank_out=_ranks([m.rank for m in every]),
        blocks=_blocks(every),
        spectrum=_spectrum(original.readings),
        energy_retained=_energy(every),
        seconds=engine.seconds(),
        device=str(engine.device),
        sha256_in=original.origin.sha256,
        encodings=Encodings(
            int8=sum(m.encoding == "I8" for m in plan.modules),
            float8=sum(m.encoding == "F8_E4M3" for m in plan.modules),
            float=sum(m.encoding not in EIGHT_BITS for m in every),
            untouched=len(plan.untouched),
        ),
        float_because=FloatBecause(**plan.float_because),
        untouched_because=_untouched_because(plan),
        forced_by=list(plan.forced_by),
        warnings=shapes.warnings(plan.layout) or UNSET,
        snr_db=elements.snr_db,
        mse=elements.mse,
        mae=elements.mae,
        delta_snr_db=fidelity.decibels(
            sum(m.squared_signal for m in quantized), sum(m.squared_noise for m in quantized)
        ),
    )


def module(reading: Reading) -> Module:
    """One module for `lensd analyze`: its rank, and the rank for each energy."""
    found = reading.module
    elements = found.rank * (found.out_features + found.in_features)
    return Module(
        module=found.name,
        out_features=found.out_features,
        in_features=found.in_features,
        rank=found.rank,
        bytes=elements * ITEM_SIZE[found.dtype],
        alpha=reading.alpha,
        norm=math.sqrt(reading.energy),
        ranks={str(e): reading.smallest_rank(e) for e in ENERGIES},
        spectrum=[float(f"{value:.6g}") for value in reading.values],
    )


def delta_error(measured: Iterable[Measured]) -> float:
    """||delta - delta'||_F / ||delta||_F over all modules of the file together."""
    pairs = [(m.squared_error, m.plan.energy) for m in measured]
    error, energy = (sum(column) for column in zip(*pairs, strict=True))
    return float((error / energy) ** 0.5) if energy else 0.0


def _worst_error(measured: Iterable[Measured]) -> float:
    return max(m.relative_error for m in measured)


def _untouched_because(plan: Plan) -> UntouchedBecause:
    specs, alpha_zero = dict(plan.tensors), plan.layout.alpha_zero
    others = {key: specs[key] for key in plan.untouched if key not in alpha_zero}
    reasons = dict(untouched.reasons(others))
    if alpha_zero:
        reasons["alpha_zero"] = len(alpha_zero)
    return UntouchedBecause(**reasons)


def _spectrum(readings: Sequence[Reading]) -> Spectrum | UnsetType:
    """LoHa and LoKr have no ranks that could be cut off."""
    if not readings:
        return UNSET
    ranks, energy = curve([r.values for r in readings])
    return Spectrum(ranks=ranks, energy=energy)


def _blocks(modules: Sequence[ModulePlan | CompositePlan]) -> dict[str, list[Block]]:
    """The blocks of each part of the model, in the model's order.

    Tuples and not objects: FLUX has some sixty blocks, and a log line should stay short.
    """
    members: dict[blocks.Block, list[ModulePlan | CompositePlan]] = {}
    for m in modules:
        members.setdefault(blocks.block_of(m.module.name), []).append(m)
    parts: dict[str, list[Block]] = {}
    for block in sorted(members, key=blocks.in_model):
        number = None if block.number < 0 else block.number
        before = _median([m.module.rank for m in members[block]])
        after = _median([m.rank for m in members[block]])
        parts.setdefault(block.part, []).append((number, len(members[block]), before, after))
    return parts


def _median(ranks: Sequence[int]) -> float:
    """A whole number where it is one."""
    middle = statistics.median(ranks)
    return int(middle) if middle == int(middle) else middle


def _energy(modules: Sequence[ModulePlan | CompositePlan]) -> Energy:
    total = sum(m.energy for m in modules)
    kept = sum(m.energy * m.retained for m in modules)
    return Energy(min=min(m.retained for m in modules), overall=kept / total if total else 1.0)


def _ranks(ranks: Sequence[int]) -> Ranks:
    return Ranks(min=min(ranks), median=statistics.median(ranks), max=max(ranks))


def _encoding(plan: Plan) -> str:
    """That of most modules."""
    return statistics.mode(m.encoding for m in plan.modules or plan.composites)
