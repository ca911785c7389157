"""Days that pass in the ledger, since a test cannot wait for them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Protocol

DAY = 86400
EARLIER = """
UPDATE files SET published = published - :seconds
WHERE path = :path AND published IS NOT NULL AND (:version IS NULL OR sha256_in = :version)
"""


class Folders(Protocol):
    """Of a home server: the watched folder, and that of the ledger."""

    loras: Path
    state: Path


def age(server: Folders, path: Path, days: float, *, version: str | None = None) -> None:
    """Outputs of a path (of the original `version` only) were published so many days earlier."""
    values = {
        "seconds": days * DAY,
        "path": bytes(path.relative_to(server.loras)),
        "version": version,
    }
    with closing(sqlite3.connect(server.state / "ledger.sqlite3")) as db, db:
        assert db.execute(EARLIER, values).rowcount > 0
