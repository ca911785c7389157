"""The plan of a whole file, and the exact size of the output that a plan gives."""

from __future__ import annotations

from dataclasses import replace

from lensd.engine.measures import Original
from lensd.engine.reader import Source
from lensd.logs.measures import Predicted
from lensd.lora.metadata import Origin, output_metadata
from lensd.lora.parameters import Parameters
from lensd.lora.planning import Findings, Plan, plan
from lensd.store.tensors import TensorEntry, output_bytes


def choose(source: Source, original: Original, p: Parameters, found: Findings) -> Plan:
    """The plan, by what earlier attempts found.

    A `target_size` has to hold the header too, whose size depends on the ranks.
    """
    chosen = plan(source.layout, source.specs, original.readings, p, found)
    if p.target_size is None:
        return chosen
    origin = replace(original.origin, mode=p.mode)
    left = p.target_size
    while any(m.rank > 1 and not m.keeps_rank for m in chosen.modules):
        excess = _size(source, chosen, origin) - p.target_size
        if p.mode == "int8" or excess <= 0:
            break
        left -= excess
        smaller = replace(p, target_size=left)
        chosen = plan(source.layout, source.specs, original.readings, smaller, found)
    return chosen


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
