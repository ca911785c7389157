"""Find the modules of LoHa, LoKr and Tucker in a file that lensd can make smaller."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from lensd.lora.tensor_spec import FLOAT_DTYPES, INTEGER_DTYPES, TensorSpec

TUCKER = ("lora_up.weight", "lora_down.weight", "lora_mid.weight")
_HADAMARD = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
_W1 = (("lokr_w1",), ("lokr_w1_a", "lokr_w1_b"))
_W2 = (("lokr_w2",), ("lokr_w2_a", "lokr_w2_b"), ("lokr_w2_a", "lokr_w2_b", "lokr_t2"))
# The sets of parts that a module can have -> its kind.
KINDS = {
    frozenset(TUCKER): "Tucker",
    frozenset(_HADAMARD): "LoHa",
    frozenset((*_HADAMARD, "hada_t1", "hada_t2")): "LoHa",
    **{frozenset((*one, *two)): "LoKr" for one in _W1 for two in _W2},
}
_PARTS = sorted({part for parts in KINDS for part in parts})
_PART = re.compile(rf"(.+)\.({'|'.join(map(re.escape, _PARTS))})")
# Each kind has one of these, and no pair of factors has.
_OWN_PARTS = tuple(part for part in _PARTS if part not in TUCKER[:2])
_ALPHA = ".alpha"
# Bounds for one module and for all, as those of `cost` for pairs: multiply-adds, and bytes.
MODULE_WORK = 1.5e11
FILE_WORK = 1e14
MEMORY = 2 * 2**30
COMPUTED = 8  # how often a delta weight is computed


@dataclass(frozen=True, slots=True)
class Composite:
    """One module: its tensors by part, and the delta weight [out_features, in_features]."""

    name: str
    kind: str
    parts: tuple[tuple[str, str], ...]  # part -> key
    alpha: str | None
    dtype: str  # of all parts
    dim: int | None  # by which programs divide alpha; None: they ignore alpha
    out_features: int
    in_features: int
    rank: int
    reducible: bool  # whether its rank may change
    work: float

    @property
    def can_shrink(self) -> bool:
        """Whether its number format or its rank may become smaller."""
        return self.kind == "Tucker" or not self.dtype.endswith("16")

    def scale(self, alpha: float | None) -> float:
        """Return the factor of the delta weight."""
        return 1.0 if alpha is None or self.dim is None else alpha / self.dim


class _Sizes(NamedTuple):
    """What the shapes of a module say: sides of the delta weight, rank, and elements at work."""

    out: int
    columns: int
    dim: int | None
    rank: int
    work: float
    elements: float
    reducible: bool = False


def find_composites(
    tensors: Mapping[str, TensorSpec], *, also_small: bool = False
) -> tuple[Composite, ...]:
    """Return the modules that can become smaller: those of 32 or 64 bits, and all of Tucker.

    A module with further tensors (magnitudes, biases, scales), with tensors of several dtypes, or
    of a shape that no program expects is none of them. `also_small`: return LoHa and LoKr in 16
    bits too.
    """
    if not any(key.endswith(_OWN_PARTS) for key in tensors):
        return ()
    groups: dict[str, dict[str, str]] = {}
    for key in tensors:
        if found := _PART.fullmatch(key):
            groups.setdefault(found[1], {})[found[2]] = key
    names = {name for name, parts in groups.items() if frozenset(parts) in KINDS}
    if not names:
        return ()
    own = {groups[name][part] for name in names for part in groups[name]}
    own |= {name + _ALPHA for name in names}
    for key in tensors:
        if key not in own:
            names.difference_update(_prefixes(key))
    found_all = [_composite(tensors, name, groups[name]) for name in groups if name in names]
    composites = tuple(c for c in found_all if c and (also_small or c.can_shrink))
    return composites if sum(c.work for c in composites) <= FILE_WORK else ()


def _prefixes(key: str) -> list[str]:
    """Return the names of which this key may be a part."""
    ends = [at for at, letter in enumerate(key[:1024]) if letter == "."]
    return [key[:end] for end in ends]


def _composite(
    tensors: Mapping[str, TensorSpec], name: str, parts: Mapping[str, str]
) -> Composite | None:
    kind = KINDS[frozenset(parts)]
    specs = {part: tensors[key] for part, key in parts.items()}
    dtypes = {spec.dtype for spec in specs.values()}
    dtype = next(iter(dtypes))
    if len(dtypes) > 1 or dtype not in FLOAT_DTYPES:
        return None
    alpha = tensors.get(name + _ALPHA)
    if alpha and (prod(alpha.shape) != 1 or alpha.dtype not in FLOAT_DTYPES + INTEGER_DTYPES):
        return None
    sizes = _sizes(kind, {part: spec.shape for part, spec in specs.items()})
    if not sizes or sizes.work > MODULE_WORK or 32 * sizes.elements > MEMORY:
        return None
    return Composite(
        name=name,
        kind=kind,
        parts=tuple(parts.items()),
        alpha=name + _ALPHA if alpha else None,
        dtype=dtype,
        dim=sizes.dim,
        out_features=sizes.out,
        in_features=sizes.columns,
        rank=sizes.rank,
        reducible=sizes.reducible,
        work=sizes.work,
    )


def _sizes(kind: str, shapes: Mapping[str, tuple[int, ...]]) -> _Sizes | None:
    """Return the sizes of a module; None if its shapes do not belong together."""
    if any(0 in shape or len(shape) < 2 for shape in shapes.values()):
        return None
    if kind == "Tucker":
        return _tucker_sizes(*(shapes[part] for part in TUCKER))
    if kind == "LoHa":
        first, second = (_factored(shapes, f"hada_w{at}") for at in (1, 2))
        if not first or not second or first[:2] != second[:2]:
            return None
        rows, columns, rank = first
        work = float(rows * columns * (rank + second[2]) * COMPUTED)
        return _Sizes(rows, columns, rank, rank, work, (rows + columns) * (rank + second[2]))
    return _kronecker_sizes(shapes)


def _tucker_sizes(
    up: tuple[int, ...], down: tuple[int, ...], mid: tuple[int, ...]
) -> _Sizes | None:
    rank, kernel = down[0], prod(mid[2:])
    if any(side != 1 for side in (*up[2:], *down[2:])) or not up[1] == rank == mid[0] == mid[1]:
        return None
    rows, columns = up[0], down[1] * kernel
    work = float(COMPUTED * rank**2 * (rows + columns + 20 * rank * kernel))
    elements = rank * (rows + columns + rank * kernel)
    return _Sizes(rows, columns, rank, rank, work, elements, reducible=rank <= min(rows, down[1]))


def _kronecker_sizes(shapes: Mapping[str, tuple[int, ...]]) -> _Sizes | None:
    sides = []
    for name in ("lokr_w1", "lokr_w2"):
        whole = shapes.get(name)
        found = (whole[0], prod(whole[1:]), 0) if whole else _factored(shapes, name)
        if not found:
            return None
        sides.append(found)
    (a, b, first_rank), (c, d, second_rank) = sides
    dim = second_rank or first_rank or None
    work = float(COMPUTED * (a * b * (first_rank + 1) + c * d * (second_rank + 1)))
    return _Sizes(a * c, b * d, dim, dim or min(c, d), work, a * b + c * d)


def _factored(shapes: Mapping[str, tuple[int, ...]], name: str) -> tuple[int, int, int] | None:
    """Return rows, columns and rank of w1 or w2 by the shapes of its factors."""
    left, right = shapes[f"{name}_a"], shapes[f"{name}_b"]
    core = shapes.get(name.replace("w", "t"))
    if len(left) != 2 or len(right) != 2:
        return None
    if core is None:
        return (left[0], right[1], right[0]) if left[1] == right[0] else None
    if core[0] != left[0] or core[1] != right[0]:
        return None
    return left[1], right[1] * prod(core[2:]), right[0]
