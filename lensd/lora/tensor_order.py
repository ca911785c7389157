"""Put the tensors of an output in the order in which its file has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lensd.lora.composites import CompositePlan, output_shape
from lensd.lora.layout import Layout
from lensd.lora.plan import ModulePlan
from lensd.lora.tensor_spec import ITEM_SIZE, TensorSpec

ALPHA = TensorSpec("F32", ())  # of an output


def order_tensors(
    layout: Layout,
    tensors: Mapping[str, TensorSpec],
    modules: Sequence[ModulePlan],
    composites: Sequence[CompositePlan],
    order: Sequence[str],
) -> tuple[tuple[str, TensorSpec], ...]:
    """Return all tensors of the output, those with the widest elements first.

    So the data of each tensor begins at a multiple of its element size, which torch requires. Of
    one size, factors come last.
    """
    others = {key: tensors[key] for key in layout.untouched}
    for c in composites:
        for part, key in c.module.parts:
            others[key] = TensorSpec(c.encoding, output_shape(c, tensors[key].shape, part))
    others |= {m.module.alpha_key: ALPHA for m in modules if m.has_alpha}
    if order:
        planned = {m.module.name: m for m in modules}
        modules = [planned[name] for name in order]
    factors = [item for m in modules for item in m.factors]
    return tuple(sorted([*sorted(others.items()), *factors], key=lambda item: -width(item[1])))


def width(spec: TensorSpec) -> int:
    """Return the bytes of an element; 0 if it has less than one."""
    return ITEM_SIZE.get(spec.dtype, 0)
