"""The plan of a whole file, and the exact size of the output that a plan gives."""

from __future__ import annotations

from dataclasses import replace

from lensd.engine.measures import Original
from lensd.engine.reader import Source
from lensd.logs.measures import Predicted
from lensd.lora import adapter, composites
from lensd.lora.layout import unsupported_adapter
from lensd.lora.metadata import Origin, output_metadata
from lensd.lora.parameters import Parameters
from lensd.lora.planning import Findings, Plan, plan
from lensd.store.tensors import TensorEntry, output_bytes


def choose(source: Source, original: Original, p: Parameters, found: Findings) -> Plan:
    """The plan, by what earlier attempts found.

    A `target_size` has to hold the header too, whose size depends on the ranks.
    """
    chosen = _plan(source, original, p, found)
    if p.target_size is None:
        return chosen
    origin = replace(original.origin, mode=p.mode)
    left = p.target_size
    while any(m.rank > 1 and not m.keeps_rank for m in chosen.modules):
        excess = _size(source, chosen, origin) - p.target_size
        if p.mode == "int8" or excess <= 0:
            break
        left -= excess
        chosen = _plan(source, original, replace(p, target_size=left), found)
    return chosen


def _plan(source: Source, original: Original, p: Parameters, found: Findings) -> Plan:
    of_file = p if found.energy is None else replace(p, energy=found.energy)
    converted = [
        composites.plan(reading, of_file, found.least_ranks.get(reading.module.name, 1))
        for reading in original.composites
    ]
    return plan(
        source.layout,
        source.specs,
        original.readings,
        p,
        found,
        converted,
        may_add_alpha=not _has_strength(source),
    )


def _has_strength(source: Source) -> bool:
    """Whether the header of a peft file has a strength that is not 1, or that cannot be read."""
    text = source.header.metadata.get(adapter.KEY)
    if text is None:
        return False
    try:
        scales = adapter.scales(text, [m.name for m in source.layout.modules])
    except ValueError:
        return True
    return any(scale != 1 for scale in scales.values())


def require_modules(chosen: Plan) -> None:
    """Raise Skipped(`unsupported_adapter`) if nothing of the file would change."""
    if not chosen.all_modules:
        raise unsupported_adapter(chosen.layout.composites[0].kind)


def predicted(source: Source, original: Original, p: Parameters, found: Findings) -> Predicted:
    """The size of the file that each mode gives, to the byte. `found` is of attempts at ultra.

    A module that 8 bits cost too much at its full rank, but not at ultra's, is not foreseen. With
    `strict_energy` mode rank needs lower ranks than ultra, which gives its size up to 1 %.
    """

    def size(mode: str) -> int:
        of_mode = replace(found, least_ranks={}, energy=None) if mode == "rank" else found
        chosen = choose(source, original, replace(p, mode=mode), of_mode)
        origin = replace(original.origin, mode=mode)
        return min(origin.bytes, _size(source, chosen, origin))

    return Predicted(rank=size("rank"), int8=size("int8"), ultra=size("ultra"))


def _size(source: Source, chosen: Plan, origin: Origin) -> int:
    header = output_metadata(source.header.metadata, chosen, origin)
    return output_bytes(entries(chosen), header)


def entries(chosen: Plan) -> list[TensorEntry]:
    return [(key, spec.dtype, spec.shape) for key, spec in chosen.tensors]
