"""Dates in the ledger that are moved back, since a test cannot wait for days."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Protocol

DAY = 86400
EARLIER = """
UPDATE files SET published = published - :seconds, observed = observed - :seconds
WHERE path = :path AND published IS NOT NULL AND (:version IS NULL OR sha256_in = :version)
"""


class Folders(Protocol):
    """Of a home server: the watched folder, and that of the ledger."""

    loras: Path
    state: Path


def age(server: Folders, path: Path, days: float, *, version: str | None = None) -> None:
    """Move the dates of a path's outputs back by `days`; with `version` only of that original."""
    values = {
        "seconds": days * DAY,
        "path": bytes(path.relative_to(server.loras)),
        "version": version,
    }
    with closing(sqlite3.connect(server.state / "ledger.sqlite3")) as db, db:
        assert db.execute(EARLIER, values).rowcount > 0
