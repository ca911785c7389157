"""Plan modules one by one, while the rest of their file is not read yet.

A draft presumes what the plan of the whole file decides: the encodings and the alpha. Keys, shapes
and alphas are enough for that, as long as no measure of a module says otherwise. Who works by a
draft compares it with the plan at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from lensd.lora import portability
from lensd.lora.common_alpha import CommonAlpha, most_common_alpha
from lensd.lora.encoding_choice import NARROW, QUANTIZING, changes_width, eight_bits
from lensd.lora.layout import Layout, Module
from lensd.lora.parameters import Parameters
from lensd.lora.plan import ModulePlan, Plan, Reading
from lensd.lora.planning import plan_module
from lensd.lora.portability import Verdict
from lensd.lora.rank_choice import choose_ranks, modules_with_fixed_rank, own_energy
from lensd.lora.tensor_order import ALPHA
from lensd.lora.tensor_spec import ITEM_SIZE, TensorSpec


@dataclass(frozen=True)
class Draft:
    """The presumed plan of a file in which each module decides its own rank."""

    layout: Layout
    specs: Mapping[str, TensorSpec]  # of the original
    parameters: Parameters
    encodings: Mapping[str, str]  # module name -> dtype
    alpha: CommonAlpha
    fixed: frozenset[str]  # names of modules whose rank must not change

    def plan(self, readings: Sequence[Reading]) -> list[ModulePlan]:
        """Plan some modules of the file."""
        encodings = [self.encodings[r.module.name] for r in readings]
        ranks = choose_ranks(readings, encodings, self.parameters, self.fixed, {})
        return [
            plan_module(reading, rank, encoding, self.alpha, self.specs, self.fixed)
            for reading, rank, encoding in zip(readings, ranks, encodings, strict=True)
        ]

    def width(self, module: Module) -> int:
        """Return the bytes of an element of its factors in the output."""
        return ITEM_SIZE[self.encodings[module.name]]

    @property
    def widths(self) -> set[int]:
        return {ITEM_SIZE[encoding] for encoding in self.encodings.values()}

    @cached_property
    def others(self) -> dict[str, TensorSpec]:
        """The tensors of the output that are no factors."""
        found = {key: self.specs[key] for key in self.layout.untouched}
        modules = self.layout.modules
        has_alpha = (m for m in modules if m.alpha or self.encodings[m.name] == "I8")
        return found | {m.alpha_key: ALPHA for m in has_alpha}

    @property
    def largest_plan(self) -> Plan:
        """A plan with all modules at their full rank, and without measures."""
        modules = tuple(self._at_full_rank())
        factors = [item for m in modules for item in m.factors]
        tensors = (*self.others.items(), *factors)
        return Plan(
            layout=self.layout,
            modules=modules,
            alpha=self.alpha.value,
            alpha_is_added=self.alpha.is_added,
            tensors=tensors,
            forced_by=(),
            float_because={},
        )

    def _at_full_rank(self) -> Iterator[ModulePlan]:
        for m in self.layout.modules:
            alpha = 1.0 if m.alpha else None
            encoding = self.encodings[m.name]
            yield ModulePlan(m, 1.0, m.rank, encoding, alpha, same=False, energy=0.0, retained=1.0)


def draft(
    layout: Layout,
    specs: Mapping[str, TensorSpec],
    alphas: Mapping[str, float | None],
    p: Parameters,
) -> Draft | None:
    """Return the draft of a file; None if the whole file has to be read before a module is planned.

    `specs`: the original's header. `alphas`: by the names of modules.
    """
    if layout.composites or (p.mode != "int8" and own_energy(p) is None):
        return None
    verdict = portability.verdict(layout, p.targets, p.encodings)
    found = {m.name: _encoding(m, verdict, p) for m in layout.modules}
    encodings = {name: encoding for name, encoding in found.items() if encoding}
    # All spectra decide the alpha of float8, and some modules of it mostly need another encoding.
    if len(encodings) < len(found) or "F8_E4M3" in encodings.values():
        return None
    # In kohya's files an alpha of 0 means the rank, but such modules stay untouched.
    alpha_of_modules = ((m, alphas[m.name] or float(m.rank)) for m in layout.modules)
    return Draft(
        layout=layout,
        specs=specs,
        parameters=p,
        encodings=encodings,
        alpha=CommonAlpha(most_common_alpha(alpha_of_modules)),
        fixed=frozenset(modules_with_fixed_rank(layout, p.targets)),
    )


def _encoding(module: Module, verdict: Verdict, p: Parameters) -> str | None:
    """Return the dtype of a module in the output; None if it depends on the weights of others."""
    dtype = eight_bits(module, verdict)[0] if p.mode in QUANTIZING else None
    return dtype or (NARROW.get(p.float32) if changes_width(module) else module.dtype)
