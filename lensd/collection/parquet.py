"""A manifest as a Parquet file: one column a field, of a fixed type.

Small structures (ranks, seconds, energies) are structs; those whose fields differ from file to file
(blocks, spectrum, counts by reason) are JSON texts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lensd.collection.rows import Row

ROWS = 10_000  # of a group, which is in memory while it is written

_RANKS = pa.struct([("min", pa.float64()), ("median", pa.float64()), ("max", pa.float64())])
_ENERGY = pa.struct([("min", pa.float64()), ("overall", pa.float64())])
_STAGES = ("fetch", "wait", "read", "compute", "write", "verify", "publish", "total")
_SECONDS = pa.struct([(stage, pa.float64()) for stage in _STAGES])
_TYPES = {
    pa.string(): (
        "timestamp", "event", "path", "destination", "output", "outcome", "reason", "message",
        "settings", "mode", "family", "naming", "dtype_in", "dtype_out", "device", "device_note",
        "sha256_in", "sha256_out", "data_sha256_in", "data_sha256_out", "source_etag",
        "source_mtime",
    ),
    pa.int64(): ("source_size", "attempts", "bytes_in", "bytes_out", "modules"),
    pa.float64(): (
        "ratio", "delta_error", "delta_error_max", "snr_db", "delta_snr_db", "mse", "mae",
    ),
    pa.bool_(): ("copied",),
    _RANKS: ("rank_in", "rank_out"),
    _ENERGY: ("energy_retained",),
    _SECONDS: ("seconds",),
}  # fmt: skip
_JSON = (
    "blocks", "spectrum", "encodings", "float_because", "untouched_because", "forced_by",
    "warnings",
)  # fmt: skip
SCHEMA = pa.schema(
    [(name, kind) for kind, names in _TYPES.items() for name in names]
    + [(name, pa.string()) for name in _JSON]
)


def write(path: str, rows: Iterable[Row]) -> None:
    """Raises OSError."""
    remaining = iter(rows)
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        while group := list(islice(remaining, ROWS)):
            table = pa.Table.from_pylist([_packed(row) for row in group], SCHEMA)
            writer.write_table(table)


def read(path: str) -> Iterator[Row]:
    """Raises OSError, ValueError for a file that is no manifest."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(ROWS):
            yield from map(_unpacked, batch.to_pylist())


def _packed(row: Row) -> Row:
    texts = {name: json.dumps(row[name]) for name in _JSON if name in row}
    return row | texts


def _unpacked(row: Row) -> Row:
    """Without fields that are null, at any depth: a row of JSON lines lacks them."""
    full = {name: _without_nulls(value) for name, value in row.items() if value is not None}
    return full | {name: json.loads(full[name]) for name in _JSON if name in full}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: part for name, part in value.items() if part is not None}
    return value
