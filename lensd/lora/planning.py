"""Plan an output: choose ranks, encodings and tensors from the spectra and the parameters.

A plan is complete, with every tensor's dtype and shape, before the first byte of an output is
written.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from lensd.lora import portability, rank
from lensd.lora.common_alpha import CommonAlpha, choose_common_alpha, find_spectra
from lensd.lora.composites import CompositePlan
from lensd.lora.encoding_choice import QUANTIZING, choose_encodings, expect_noise
from lensd.lora.layout import Layout
from lensd.lora.parameters import Parameters
from lensd.lora.plan import Findings, ModulePlan, Plan, Reading
from lensd.lora.rank_choice import choose_ranks, modules_with_fixed_rank
from lensd.lora.tensor_order import order_tensors
from lensd.lora.tensor_spec import TensorSpec


def plan(
    layout: Layout,
    tensors: Mapping[str, TensorSpec],
    readings: Sequence[Reading],
    p: Parameters,
    found: Findings,
    composites: Sequence[CompositePlan] = (),
    order: Sequence[str] = (),
    *,
    may_add_alpha: bool = True,
) -> Plan:
    """Plan an output from the readings of all modules, which are in the order of the layout.

    `tensors`: the original's header. `composites`: their plans. `order`: the names of the modules
    in the order in which the output has their factors; that of the layout if it is empty.
    `may_add_alpha`: False if the header has a strength, which an alpha would replace in diffusers.
    """
    if found.energy is not None:
        p = replace(p, energy=found.energy)
    verdict = portability.verdict(layout, p.targets, p.encodings)
    fixed = modules_with_fixed_rank(layout, p.targets)
    may_add_alpha &= verdict.may_add_alpha and not composites
    while True:
        encodings, float_because = choose_encodings(verdict, readings, p, found)
        ranks = choose_ranks(readings, encodings, p, fixed, found.least_ranks)
        spectra = find_spectra(readings, encodings, ranks)
        alpha = choose_common_alpha(readings, ranks, spectra, may_add=may_add_alpha)
        noisy = expect_noise(readings, ranks, spectra, alpha)
        if not noisy:
            break
        found = replace(found, too_noisy=found.too_noisy | noisy)
    modules = tuple(
        plan_module(reading, rank_, encoding, alpha, tensors, fixed)
        for reading, rank_, encoding in zip(readings, ranks, encodings, strict=True)
    )
    converted = tuple(c for c in composites if not c.same)
    return Plan(
        layout=layout,
        modules=modules,
        alpha=alpha.value,
        alpha_is_added=alpha.is_added,
        tensors=order_tensors(layout, tensors, modules, converted, order),
        forced_by=verdict.forced_by if p.mode in QUANTIZING else (),
        float_because=float_because,
        composites=converted,
    )


def plan_module(
    reading: Reading,
    rank_: int,
    encoding: str,
    common: CommonAlpha,
    tensors: Mapping[str, TensorSpec],
    fixed: Collection[str],
) -> ModulePlan:
    module = reading.module
    alpha = common.of(module)
    if module.scaled_last and module.alpha:  # neither up @ down nor alpha / rank may change
        alpha = reading.scale * rank_
    out_scale = 1.0 if alpha is None else alpha / rank_
    stored = {tensors[module.up].dtype, tensors[module.down].dtype}
    return ModulePlan(
        module=module,
        scale=reading.scale,
        rank=rank_,
        encoding=encoding,
        alpha=alpha,
        same=rank_ == module.rank and stored == {encoding} and out_scale == reading.scale,
        energy=reading.energy,
        retained=rank.retained(reading.kept, rank_),
        keeps_rank=module.name in fixed,
    )
