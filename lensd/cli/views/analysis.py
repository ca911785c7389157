"""Tables of `lensd analyze`: ranks and bytes by block of the base model, sizes by mode."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from itertools import chain, groupby

import msgspec
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from lensd.cli.views.terminal import table
from lensd.logs.measures import FloatBecause, Module
from lensd.lora.blocks import Block, block_of
from lensd.report.documents import Analysis
from lensd.text import size, visible

ROWS = 25  # a model with more blocks has several blocks per row


def render(document: Analysis) -> Iterator[RenderableType]:
    """The lines and tables of one file."""
    yield Text(
        visible(
            f"{document.path}: {size(document.bytes_in)}, {document.family}, "
            f"{document.naming} naming, {document.dtype_in}, {document.modules} modules, "
            f"rank {_range(document.rank_in.min, document.rank_in.max)}"
        )
    )
    yield ""
    if document.details:  # LoHa, LoKr and Tucker have no singular values
        yield "median rank that contains this share of the energy:"
        yield _block_table(document.details)
        yield ""
    yield _mode_table(document)
    yield from _why_not_int8(document)
    yield f"relative delta error of ultra: {document.delta_error:.4f}"


def _block_table(modules: Sequence[Module]) -> Table:
    shares = {energy: f"{100 * float(energy):g} %" for energy in modules[0].ranks}
    counts = ("modules", "rank", *shares.values(), "bytes")
    rows = table("block", *counts, numbers=counts)
    for name, members in (*groups(modules), ("all", modules)):
        rows.add_row(
            name,
            str(len(members)),
            _spread(members),
            *(f"{statistics.median(m.ranks[energy] for m in members):g}" for energy in shares),
            size(sum(m.bytes for m in members)),
        )
    return rows


def _mode_table(document: Analysis) -> Table:
    rows = table("mode", "bytes", "times smaller", numbers=("bytes", "times smaller"))
    for mode, predicted in msgspec.structs.asdict(document.predicted).items():
        rows.add_row(mode, size(predicted), f"{document.bytes_in / predicted:.1f}")
    return rows


def _why_not_int8(document: Analysis) -> Iterator[str]:
    """The programs because of which int8 is not used, where there are any."""
    because = document.float_because
    in_floats = because.targets if isinstance(because, FloatBecause) else None
    if document.forced_by:
        stored = f"{in_floats} of {document.modules} modules stay in 16 bits" if in_floats else ""
        yield (
            f"why not int8: {', '.join(document.forced_by)} is not known to load it exactly from "
            f"this file{'; ' * bool(stored)}{stored}"
        )


def groups(modules: Sequence[Module], rows: int = ROWS) -> list[tuple[str, list[Module]]]:
    """The modules by block, sorted by part and number.

    If the model has more blocks than `rows`, the parts with the most blocks have ranges of
    neighbours, such as `single_blocks.0-2`.
    """
    of_block: dict[Block, list[Module]] = {}
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
    """The blocks of one part in groups of `length` consecutive numbers."""
    return [list(found) for _, found in groupby(blocks, key=lambda b: b.number // length)]


def _name(blocks: Sequence[Block]) -> str:
    first, last = blocks[0], blocks[-1]
    return str(first) if first == last else f"{first}-{last.number}"


def _spread(modules: Sequence[Module]) -> str:
    ranks = [m.rank for m in modules]
    return _range(min(ranks), max(ranks))


def _range(low: int, high: int) -> str:
    return f"{low}" if low == high else f"{low}-{high}"
