"""Records -> the text from which the page's script makes its table and pictures.

JSON by columns, with what many files share written once, deflated, in base64: 5,000 files are some
hundred bytes each, and no byte of a file's name is ever read as markup or script.
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
ENERGY_UNIT = 100_000  # energies are whole numbers of this share


def packed(records: Sequence[Record], days: Sequence[Day]) -> str:
    """Base64 of what `inflate` and `JSON.parse` turn into {files, models, days}."""
    models = _Shared()
    document = {
        "files": _columns(records, models),
        "models": models.found,
        "days": [[d.day, d.files, d.saved] for d in days],
    }
    text = json.dumps(document, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


class _Shared:
    """Values that many files have, each told by its number."""

    def __init__(self) -> None:
        self.found: list[Any] = []
        self._numbers: dict[str, int] = {}

    def number(self, value: Any) -> int:
        key = json.dumps(value)
        if key not in self._numbers:
            self._numbers[key] = len(self.found)
            self.found.append(value)
        return self._numbers[key]


def _columns(records: Sequence[Record], models: _Shared) -> Columns:
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
        "error": [_rounded(r.measures.delta_error, 5) for r in records],
        "seconds": [_rounded(r.worked, 2) for r in records],
        "original": [visible(r.measures.sha256_in or "") for r in records],
        "output": [visible(r.measures.sha256_out or "") for r in records],
        "original_autov3": [_autov3(r.measures.data_sha256_in) for r in records],
        "output_autov3": [_autov3(r.measures.data_sha256_out) for r in records],
        "ranks": [_ranks(r, models) for r in records],
        "spectrum": [_spectrum(r, models) for r in records],
    }


def _autov3(digest: str | None) -> str:
    return visible(digest or "")[:12]


def _rounded(number: float | None, digits: int) -> float | None:
    return None if number is None else round(number, digits)


def _ranks(record: Record, models: _Shared) -> list[Any] | None:
    """[the model's blocks as [name, modules] (shared), ranks in (shared), ranks out]."""
    blocks = record.measures.blocks if isinstance(record.measures, Drawn) else None
    if not blocks:
        return None
    named = [
        (visible(part if number is None else f"{part}.{number}"), modules, before, after)
        for part, rows in blocks.items()
        for number, modules, before, after in rows
    ]
    names = models.number([[name, modules] for name, modules, _, _ in named])
    return [names, models.number([row[2] for row in named]), [row[3] for row in named]]


def _spectrum(record: Record, models: _Shared) -> list[Any] | None:
    """[ranks (shared), energies as whole numbers]."""
    found = record.measures.spectrum if isinstance(record.measures, Drawn) else None
    if found is None:
        return None
    return [models.number(found.ranks), [round(e * ENERGY_UNIT) for e in found.energy]]
