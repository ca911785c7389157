"""What a person has deleted: files that lensd had processed, and archived originals."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

from lensd.store.ledger.database import Database
from lensd.store.ledger.states import Outcome
from lensd.store.paths import is_relative

What = Literal["file", "original"]

# Files of which lensd has no original; `lensd status` lists them with what to do about them.
UNCOMPRESSED = (Outcome.FAILED, Outcome.QUARANTINED, Outcome.SKIPPED, Outcome.KEPT)
PAGE = 500  # rows in memory at a time
# None of the columns lies behind `line`, which is long: SQLite does not read it.
_PLACES = (
    "SELECT id, job_id, root, path, archive_path, sha256_in FROM files "
    "WHERE outcome = ? AND id > ? ORDER BY id LIMIT ?"
)


class Place(NamedTuple):
    """Where a compressed file and its original should lie: the columns that this takes.

    `path` is relative to `root`.
    """

    job_id: str
    root: str
    path: str
    archive_path: str | None
    sha256_in: str | None
    outcome: Outcome

    @property
    def full_path(self) -> str:
        return os.path.join(self.root, self.path)


class Gone:
    """The table `gone`, which an older lensd does not miss; a read-only ledger may lack it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def places(self, *outcomes: Outcome) -> Iterator[Place]:
        """The places of the files with these outcomes; leaves damaged rows out.

        It takes a tenth of the processor time that whole rows take.
        """
        for outcome in outcomes:
            last = 0
            while page := self._database.read(_PLACES, outcome, last, PAGE):
                for _, *columns in page:
                    place = _place(columns, outcome)
                    if place is not None:
                        yield place
                last = page[-1]["id"]

    def known(self) -> set[tuple[str, What]]:
        """The job of each deleted file or original, and which of both it is."""
        if not self.exists():
            return set()
        rows = self._database.read("SELECT job_id, what FROM gone")
        return {(row["job_id"], row["what"]) for row in rows}

    def exists(self) -> bool:
        """Whether the ledger has the table."""
        return bool(self._database.read("SELECT 1 FROM sqlite_schema WHERE name = 'gone'"))

    def change(
        self, new: Iterable[tuple[str, What]], back: Iterable[tuple[str, What]] = ()
    ) -> None:
        """Record what was deleted, and what is back."""
        with self._database.change() as db:
            db.executemany(
                "INSERT OR IGNORE INTO gone VALUES (?, ?, ?)",
                [(*found, time.time()) for found in new],
            )
            db.executemany("DELETE FROM gone WHERE job_id = ? AND what = ?", list(back))


def _place(columns: Sequence[Any], outcome: Outcome) -> Place | None:
    """None for a damaged row."""
    job_id, root, path, archived, sha256 = columns
    try:
        inside = os.fsdecode(path)
        original = None if archived is None else os.fsdecode(archived)
        place = Place(job_id, os.fsdecode(root), inside, original, sha256, outcome)
    except TypeError:
        return None
    return place if is_relative(inside) else None
