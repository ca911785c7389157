"""Packs records into the text from which the page's script makes its table and charts.

The text is JSON by columns, deflated, in base64. Values that many files share are stored once. A
file takes about a hundred bytes, and its name can never be read as markup or script.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from typing import Any

from lensd.report.documents import Day
from lensd.report.record import Drawn, Record
from lensd.text import visible, visible_lines

Columns = dict[str, list[Any]]
ENERGY_UNIT = 100_000  # energies are stored as integers: share * ENERGY_UNIT


def pack(records: Sequence[Record], days: Sequence[Day]) -> str:
    """{files, models, days} as JSON, deflated, in base64."""
    models = _SharedValues()
    document = {
        "files": _columns(records, models),
        "models": models.values,
        "days": [[d.day, d.files, d.saved] for d in days],
    }
    text = json.dumps(document, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


class _SharedValues:
    """Values that many files have in common; each file stores only the number of a value."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[str, int] = {}

    def number_of(self, value: Any) -> int:
        key = json.dumps(value)
        if key not in self._numbers:
            self._numbers[key] = len(self.values)
            self.values.append(value)
        return self._numbers[key]


def _columns(records: Sequence[Record], models: _SharedValues) -> Columns:
    return {
        "path": [visible(r.path) for r in records],
        "outcome": [r.outcome for r in records],
        "reason": [visible(r.reason or "") for r in records],
        "message": [visible_lines(r.message or "") for r in records],
        "when": [round(r.when) for r in records],
        "family": [visible(r.measures.family or "") for r in records],
        "mode": [visible(r.measures.mode or "") for r in records],
        "before": [r.measures.bytes_in for r in records],
        "after": [r.measures.bytes_out for r in records],
        "error": [_round(r.measures.delta_error, 5) for r in records],
        "seconds": [_round(r.worked, 2) for r in records],
        "original": [visible(r.measures.sha256_in or "") for r in records],
        "output": [visible(r.measures.sha256_out or "") for r in records],
        "original_autov3": [_autov3(r.measures.data_sha256_in) for r in records],
        "output_autov3": [_autov3(r.measures.data_sha256_out) for r in records],
        "ranks": [_ranks(r, models) for r in records],
        "spectrum": [_spectrum(r, models) for r in records],
    }


def _autov3(digest: str | None) -> str:
    return visible(digest or "")[:12]


def _round(number: float | None, digits: int) -> float | None:
    return None if number is None else round(number, digits)


def _ranks(record: Record, models: _SharedValues) -> list[Any] | None:
    """[number of the blocks as [name, modules], number of the ranks before, ranks after]."""
    blocks = record.measures.blocks if isinstance(record.measures, Drawn) else None
    if not blocks:
        return None
    named = [
        (visible(part if number is None else f"{part}.{number}"), modules, before, after)
        for part, rows in blocks.items()
        for number, modules, before, after in rows
    ]
    names = models.number_of([[name, modules] for name, modules, _, _ in named])
    return [names, models.number_of([row[2] for row in named]), [row[3] for row in named]]


def _spectrum(record: Record, models: _SharedValues) -> list[Any] | None:
    """[number of the ranks, energies as integers]."""
    spectrum = record.measures.spectrum if isinstance(record.measures, Drawn) else None
    if spectrum is None:
        return None
    return [models.number_of(spectrum.ranks), [round(e * ENERGY_UNIT) for e in spectrum.energy]]
