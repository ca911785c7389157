"""What `lensd analyze` prints: ranks and bytes by block of the base model, sizes by mode."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from lensd.cli.terminal import table
from lensd.lora.blocks import Block, block_of
from lensd.report.amounts import size
from lensd.report.names import visible

ROWS = 25  # a model of more blocks has its longest parts in one row each

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
    """The modules by block, in the model's order; at most `rows` where parts can be put together.

    The parts of the most blocks come first into one row: `single_blocks.0-37`.
    """
    parts: dict[str, dict[Block, list[Detail]]] = {}
    for detail in details:
        block = block_of(detail["module"])
        parts.setdefault(block.part, {}).setdefault(block, []).append(detail)
    together: set[str] = set()
    longest = sorted(parts, key=lambda part: len(parts[part]), reverse=True)
    while longest and sum(1 if p in together else len(parts[p]) for p in parts) > rows:
        together.add(longest.pop(0))
    found = []
    for part in sorted(parts):
        blocks = sorted(parts[part])
        if part in together:
            found.append((_range(blocks), [d for b in blocks for d in parts[part][b]]))
        else:
            found += [(str(b), parts[part][b]) for b in blocks]
    return found


def _range(blocks: Sequence[Block]) -> str:
    first, last = blocks[0], blocks[-1]
    return str(first) if first == last else f"{first.part}.{max(first.number, 0)}-{last.number}"


def _spread(ranks: Sequence[int]) -> str:
    low, high = min(ranks), max(ranks)
    return f"{low}" if low == high else f"{low}-{high}"
