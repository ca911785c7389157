"""What `lensd analyze` prints: ranks and bytes by block of the base model, sizes by mode."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, groupby
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from lensd.cli.views.terminal import table
from lensd.lora.blocks import Block, block_of
from lensd.text import size, visible

ROWS = 25  # a model of more blocks has several in a row

Detail = Mapping[str, Any]


def parts(numbers: Mapping[str, Any]) -> Iterator[RenderableType]:
    """The lines and tables of one file, from what the engine measured."""
    yield visible(
        f"{numbers['path']}: {size(numbers['bytes_in'])}, {numbers['family']}, "
        f"{numbers['naming']} naming, {numbers['dtype_in']}, {numbers['modules']} modules, "
        f"rank {_spread([d['rank'] for d in numbers['details']])}"
    )
    yield ""
    yield "median rank that holds this share of the energy:"
    yield _blocks(numbers["details"])
    yield ""
    yield _modes(numbers)
    yield f"ultra's relative delta error: {numbers['delta_error']:.4f}"


def _blocks(details: Sequence[Detail]) -> Table:
    shares = {energy: f"{100 * float(energy):g} %" for energy in details[0]["ranks"]}
    counts = ("modules", "rank", *shares.values(), "bytes")
    found = table("block", *counts, numbers=counts)
    for name, members in (*groups(details), ("all", details)):
        found.add_row(
            name,
            str(len(members)),
            _spread([d["rank"] for d in members]),
            *(f"{statistics.median(d['ranks'][energy] for d in members):g}" for energy in shares),
            size(sum(d["bytes"] for d in members)),
        )
    return found


def _modes(numbers: Mapping[str, Any]) -> Table:
    found = table("mode", "bytes", "times smaller", numbers=("bytes", "times smaller"))
    for mode, predicted in numbers["predicted"].items():
        found.add_row(mode, size(predicted), f"{numbers['bytes_in'] / predicted:.1f}")
    return found


def groups(details: Sequence[Detail], rows: int = ROWS) -> list[tuple[str, list[Detail]]]:
    """The modules by block, sorted by part and number; of a model of more blocks than `rows`, by
    ranges of neighbours (`single_blocks.0-2`), in the parts that have the most blocks.
    """
    of_block: dict[Block, list[Detail]] = {}
    for detail in details:
        of_block.setdefault(block_of(detail["module"]), []).append(detail)
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
    return [(_name(r), [d for block in r for d in of_block[block]]) for r in ranges]


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
