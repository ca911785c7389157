"""The plan of a whole file, and the exact size of the output that a plan gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple, Self

from lensd.engine.measures import Original
from lensd.engine.reader import Source
from lensd.logs.measures import Predicted
from lensd.lora import adapter, composites
from lensd.lora.drafts import Draft, draft
from lensd.lora.layout import unsupported_adapter
from lensd.lora.metadata import Origin, output_metadata
from lensd.lora.parameters import Parameters
from lensd.lora.plan import Findings, Plan
from lensd.lora.planning import plan
from lensd.store.header import HEADER_STEP, largest_header, tensor_bytes
from lensd.store.tensors import TensorEntry, output_bytes

# By so much `ss_network_dim` and `ss_network_alpha` may grow together.
NETWORK_BYTES = 64


class OutputHeader(NamedTuple):
    """What the header of an output says."""

    tensors: list[TensorEntry]
    metadata: Mapping[str, str]  # with an error of 0, as long as it is not measured

    @classmethod
    def of(cls, source: Source, chosen: Plan, origin: Origin) -> Self:
        tensors = [(key, spec.dtype, spec.shape) for key, spec in chosen.tensors]
        return cls(tensors, output_metadata(source.header.metadata, chosen, origin))

    def file_bytes(self, least: int = 0) -> int:
        """Return the bytes of the output; its header takes at least `least` of them."""
        return output_bytes(self.tensors, self.metadata, least)

    def data_bytes(self) -> int:
        """Return the bytes of all tensors of the output."""
        return sum(tensor_bytes(dtype, shape) for _, dtype, shape in self.tensors)


def make_draft(source: Source, p: Parameters) -> Draft | None:
    """Return the draft of a file of which each module decides its rank; None for other files."""
    alphas = {m.name: source.alpha(m) for m in source.layout.modules}
    return draft(source.layout, source.specs, alphas, p)


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
        excess = OutputHeader.of(source, chosen, origin).file_bytes() - p.target_size
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
        original.order,
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
        of_p = replace(p, mode=mode)
        chosen = choose(source, original, of_p, of_mode)
        origin = replace(original.origin, mode=mode)
        least = least_header(source, make_draft(source, of_p), origin)
        return min(origin.bytes, OutputHeader.of(source, chosen, origin).file_bytes(least))

    return Predicted(rank=size("rank"), int8=size("int8"), ultra=size("ultra"))


def least_header(source: Source, made: Draft | None, origin: Origin) -> int:
    """Return the bytes that a single pass reserves for the header; 0 without a draft.

    They suffice for all ranks that the modules may get. `origin`: its hash may be any.
    """
    if made is None:
        return 0
    header = largest_header(*OutputHeader.of(source, made.largest_plan, origin))
    needed = header + NETWORK_BYTES + _ranks_of_peft(source, made)
    return needed + -needed % HEADER_STEP


def _ranks_of_peft(source: Source, made: Draft) -> int:
    """Return the bytes that the ranks of a peft file may take in its adapter entry."""
    if "I8" in made.encodings.values():
        return 0
    has_entry = adapter.KEY in source.header.metadata
    if not has_entry and made.alpha.value is not None:
        return 0
    return adapter.most_bytes(made.layout, has_entry=has_entry)
