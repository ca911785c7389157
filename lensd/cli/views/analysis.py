"""What `lensd analyze` prints: ranks and bytes by block of the base model, sizes by mode."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from itertools import chain, groupby
from typing import Protocol, TypeVar

import msgspec
from rich.console import RenderableType
from rich.table import Table

from lensd.cli.views.terminal import table
from lensd.logs.measures import Detailed, Module
from lensd.lora.blocks import Block, block_of
from lensd.text import size, visible

ROWS = 25  # a model of more blocks has several in a row


def parts(path: str, found: Detailed) -> Iterator[RenderableType]:
    """The lines and tables of one file, from what the engine measured."""
    yield visible(
        f"{path}: {size(found.bytes_in)}, {found.family}, "
        f"{found.naming} naming, {found.dtype_in}, {found.modules} modules, "
        f"rank {_spread([m.rank for m in found.details])}"
    )
    yield ""
    yield "median rank that holds this share of the energy:"
    yield _blocks(found.details)
    yield ""
    yield _modes(found)
    yield f"ultra's relative delta error: {found.delta_error:.4f}"


def _blocks(modules: Sequence[Module]) -> Table:
    shares = {energy: f"{100 * float(energy):g} %" for energy in modules[0].ranks}
    counts = ("modules", "rank", *shares.values(), "bytes")
    found = table("block", *counts, numbers=counts)
    for name, members in (*groups(modules), ("all", list(modules))):
        found.add_row(
            name,
            str(len(members)),
            _spread([m.rank for m in members]),
            *(f"{statistics.median(m.ranks[energy] for m in members):g}" for energy in shares),
            size(sum(m.bytes for m in members)),
        )
    return found


def _modes(found: Detailed) -> Table:
    modes = table("mode", "bytes", "times smaller", numbers=("bytes", "times smaller"))
    for mode, predicted in msgspec.structs.asdict(found.predicted).items():
        modes.add_row(mode, size(predicted), f"{found.bytes_in / predicted:.1f}")
    return modes


class Named(Protocol):
    """A module of a LoRA."""

    @property
    def module(self) -> str: ...


M = TypeVar("M", bound=Named)


def groups(modules: Sequence[M], rows: int = ROWS) -> list[tuple[str, list[M]]]:
    """The modules by block, sorted by part and number; of a model of more blocks than `rows`, by
    ranges of neighbours (`single_blocks.0-2`), in the parts that have the most blocks.
    """
    of_block: dict[Block, list[M]] = {}
    for module in modules:
        of_block.setdefault(block_of(module.module), []).append(module)
    parts = {part: list(found) for part, found in groupby(sorted(of_block), key=_part)}
    found = {part: _ranges(blocks, 1) for part, blocks in parts.items()}
    lengths = dict.fromkeys(parts, 1)
    while sum(map(len, found.values())) > rows:
        part = max(found, key=lambda part: len(found[part]))
        if len(found[part]) == 1:
            break
        lengths[part] += 1
        found[part] = _ranges(parts[part], lengths[part])
    ranges = chain.from_iterable(found.values())
    return [(_name(r), [m for block in r for m in of_block[block]]) for r in ranges]


def _part(block: Block) -> str:
    return block.part


def _ranges(blocks: Sequence[Block], length: int) -> list[list[Block]]:
    """Blocks of one part, with so many numbers in a row."""
    return [list(found) for _, found in groupby(blocks, key=lambda b: b.number // length)]


def _name(blocks: Sequence[Block]) -> str:
    first, last = blocks[0], blocks[-1]
    return str(first) if first == last else f"{first}-{last.number}"


def _spread(ranks: Sequence[int]) -> str:
    low, high = min(ranks), max(ranks)
    return f"{low}" if low == high else f"{low}-{high}"
