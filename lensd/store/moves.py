"""Rows whose file, or whose original in the archive, has another path now."""

from __future__ import annotations

import os
from typing import Any

from lensd.store.entry import Entry, row_key
from lensd.store.identity import Identity
from lensd.store.rows import Rows, original_moved, replace_older, update


class Moves(Rows):
    """Which rows a file may belong to, and the change of their paths."""

    def same_file(self, identity: Identity) -> list[Entry]:
        """Rows about this inode with this content under whatever path, the newest first."""
        wanted = identity[1:4]
        rows = self._all(
            "inode = ? AND size = ? AND mtime_ns = ? UNION ALL SELECT * FROM files WHERE "
            "json_extract(staged, '$[1]') = ? AND staged IS NOT NULL",
            *wanted, identity.inode,
        )  # fmt: skip
        about = {e.job_id: e for e in rows if e.outcome != "superseded" and e.is_about(identity)}
        return sorted(about.values(), key=lambda e: e.number, reverse=True)

    def of_original(self, sha256: str) -> list[Entry]:
        """Rows of this original that the archive holds, the newest first."""
        return self._all("sha256_in = ? AND archive_path IS NOT NULL ORDER BY id DESC", sha256)

    def archived_at(self, path: str) -> list[Entry]:
        """The rows whose original is this file of the archive."""
        return self._all("archive_path = ? ORDER BY id", os.fsencode(path))

    def history(self, root: str, path: str) -> list[Entry]:
        """All rows of a path, oldest first."""
        return self._all("root = ? AND path = ? ORDER BY id", *row_key(root, path))

    def move(self, entry: Entry, root: str, watch: str, path: str, **columns: Any) -> bool:
        """The file of a row has another path now: the row and what came before it go along.

        A job begins again there. `columns` are those of the row itself. False: it moved before.
        """
        with self._change() as db:
            here, there = row_key(entry.root, entry.path), row_key(root, path)
            moving = "root = ? AND path = ? AND id <= ?"
            query = f"SELECT max(id), min(id) FROM files WHERE {moving}"  # noqa: S608
            number, first = db.execute(query, (*here, entry.number)).fetchone()
            if number != entry.number:
                return False
            replace_older(db, root, path, entry.job_id)
            # Where a path has had other files, what is there now has to be its newest row.
            query = (
                "SELECT max(id), (SELECT max(id) FROM files) FROM files WHERE root = ? AND path = ?"
            )
            newest, last = db.execute(query, there).fetchone()
            later = last - first + 1 if newest is not None and newest > first else 0
            db.execute(
                f"UPDATE files SET id = id + ?, root = ?, path = ?, watch = ? WHERE {moving}",  # noqa: S608
                (later, *there, watch, *here, entry.number),
            )
            if entry.state != "done":
                columns = {"state": "queued", "temporary": None, "staged": None,
                           "not_before": None, **columns}  # fmt: skip
            if entry.outcome == "replaced":  # what took its old name did not take the file
                columns = {"outcome": "compressed", **columns}
            update(db, entry.job_id, columns)
        return True

    def original_moved(self, old: str, new: str, sha256: str) -> None:
        """An original has another name in the archive."""
        with self._change() as db:
            original_moved(db, old, new, sha256)
