"""Packs records into the text from which the page's script makes its table and charts.

The text is JSON by columns, deflated, in base64. Values that many files share are stored once. A
file takes about a hundred bytes, and its name can never be read as markup or script.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from lensd.report.documents import Day
from lensd.report.record import Drawn, Record
from lensd.text import visible, visible_lines

ENERGY_UNIT = 100_000  # energies are stored as integers: share * ENERGY_UNIT

BlockName: TypeAlias = tuple[str, int]  # with its number of modules
SharedValue: TypeAlias = Sequence[BlockName] | Sequence[float]


class Columns(msgspec.Struct, kw_only=True):
    """The columns of the table, each with one value per file; page.js reads them by name.

    ranks: (number of the block names, number of the ranks before, ranks after);
    spectrum: (number of the ranks, energies). Each number is an index into `Page.shared`.
    """

    path: list[str]
    outcome: list[str]
    reason: list[str]
    message: list[str]
    when: list[int]
    family: list[str]
    mode: list[str]
    before: list[int | None]
    after: list[int | None]
    error: list[float | None]
    seconds: list[float | None]
    original: list[str]
    output: list[str]
    original_autov3: list[str]
    output_autov3: list[str]
    ranks: list[tuple[int, int, list[float]] | None]
    spectrum: list[tuple[int, list[int]] | None]


class Page(msgspec.Struct, kw_only=True):
    """The data of the page."""

    files: Columns
    shared: list[SharedValue]
    days: list[tuple[str, int, int]]


def pack(records: Sequence[Record], days: Sequence[Day]) -> str:
    """The data of the page as JSON, deflated, in base64."""
    return base64.b64encode(zlib.compress(to_json(records, days), 9)).decode()


def to_json(records: Sequence[Record], days: Sequence[Day] = ()) -> bytes:
    """The data of the page as JSON."""
    shared = _SharedValues()
    page = Page(
        files=_columns(records, shared),
        shared=shared.values,
        days=[(d.day, d.files, d.saved) for d in days],
    )
    return msgspec.json.encode(page)


class _SharedValues:
    """Values that many files have in common; each file stores only the number of a value."""

    def __init__(self) -> None:
        self.values: list[SharedValue] = []
        self._numbers: dict[bytes, int] = {}

    def number_of(self, value: SharedValue) -> int:
        key = msgspec.json.encode(value)
        if key not in self._numbers:
            self._numbers[key] = len(self.values)
            self.values.append(value)
        return self._numbers[key]


def _columns(records: Sequence[Record], shared: _SharedValues) -> Columns:
    measures = [r.measures for r in records]
    return Columns(
        path=[visible(r.shown) for r in records],
        outcome=[r.outcome for r in records],
        reason=[visible(r.reason or "") for r in records],
        message=[visible_lines(r.message or "") for r in records],
        when=[round(r.when) for r in records],
        family=[visible(m.family or "") for m in measures],
        mode=[visible(m.mode or "") for m in measures],
        before=[m.bytes_in for m in measures],
        after=[m.bytes_out for m in measures],
        error=[_round(m.delta_error, 5) for m in measures],
        seconds=[_round(r.worked, 2) for r in records],
        original=[m.sha256_in or "" for m in measures],
        output=[m.sha256_out or "" for m in measures],
        original_autov3=[(m.data_sha256_in or "")[:12] for m in measures],
        output_autov3=[(m.data_sha256_out or "")[:12] for m in measures],
        ranks=[_ranks(r, shared) for r in records],
        spectrum=[_spectrum(r, shared) for r in records],
    )


def _round(number: float | None, digits: int) -> float | None:
    return None if number is None else round(number, digits)


def _ranks(record: Record, shared: _SharedValues) -> tuple[int, int, list[float]] | None:
    blocks = record.measures.blocks if isinstance(record.measures, Drawn) else None
    if not blocks:
        return None
    rows = [
        (visible(part if number is None else f"{part}.{number}"), modules, before, after)
        for part, found in blocks.items()
        for number, modules, before, after in found
    ]
    names = shared.number_of([(name, modules) for name, modules, _, _ in rows])
    return names, shared.number_of([before for _, _, before, _ in rows]), [row[3] for row in rows]


def _spectrum(record: Record, shared: _SharedValues) -> tuple[int, list[int]] | None:
    spectrum = record.measures.spectrum if isinstance(record.measures, Drawn) else None
    if spectrum is None:
        return None
    energies = [round(e * ENERGY_UNIT) for e in spectrum.energy]
    return shared.number_of(spectrum.ranks), energies
