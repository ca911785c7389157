"""Folders that an earlier version of lensd left, unpacked to another place.

A copy has other paths, inodes and times than the ledger knows files by. They are replaced in the
copy, as if it lay where it was made; `manifest.json` has what the copy has lost.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.home_server import HomeServer

FOLDER = Path(__file__).resolve().parents[1] / "fixtures/before"
MANIFEST = json.loads((FOLDER / "manifest.json").read_text())
LEDGER = "ledger.sqlite3"

Version = tuple[int, int, int]  # inode, size, mtime_ns: a file in the ledger


class Change(NamedTuple):
    """Paths and files as they were, and what they are in the copy."""

    old: str
    new: str
    files: dict[Version, os.stat_result]

    def text(self, value: Any) -> Any:
        """A value of the ledger with the new paths."""
        if isinstance(value, bytes):
            return value.replace(os.fsencode(self.old), os.fsencode(self.new))
        return value.replace(self.old, self.new) if isinstance(value, str) else value

    def identity(self, identity: list[int]) -> list[int]:
        """[device, inode, size, mtime_ns, ctime_ns] of the copy; unchanged if it has no copy."""
        device, inode, size, mtime_ns, ctime_ns = identity
        now = self.files.get((inode, size, mtime_ns))
        if now is None:
            return [device, inode, size, mtime_ns, ctime_ns]
        return [now.st_dev, now.st_ino, size, mtime_ns, now.st_ctime_ns]


def unpack(name: str, top: Path, *, checkpointed: bool) -> HomeServer:
    """One of the fixture's folders. `checkpointed`: the ledger has no write-ahead log."""
    with tarfile.open(FOLDER / "files.tar.xz") as tar:
        members = [m for m in tar.getmembers() if m.name.split("/")[0] == name]
        tar.extractall(top.parent / "unpacked", members, filter="data")
    (top.parent / "unpacked" / name).rename(top)
    change = Change(f"{MANIFEST['top']}/{name}", str(top), dict(_restored_times(name, top)))
    for text in (top / "config.yaml", top / "lensd.log"):
        text.write_text(change.text(text.read_text()))
    _relocate(top / "state", change, checkpointed=checkpointed)
    return HomeServer(top, new=False)


def _restored_times(name: str, top: Path) -> Iterator[tuple[Version, os.stat_result]]:
    """tar keeps the times of modification, but not to the nanosecond."""
    for relative, (inode, size, mtime_ns) in MANIFEST["files"].items():
        if relative.startswith(f"{name}/"):
            path = top.parent / top.name / relative.removeprefix(f"{name}/")
            os.utime(path, ns=(mtime_ns, mtime_ns))
            yield (inode, size, mtime_ns), path.lstat()


def _relocate(state: Path, change: Change, *, checkpointed: bool) -> None:
    """Change the ledger, and leave the changes in its write-ahead log unless `checkpointed`."""
    aside = state.with_name("state.before")
    state.rename(aside)
    state.mkdir()
    with closing(sqlite3.connect(aside / LEDGER)) as db:
        db.execute("PRAGMA wal_autocheckpoint = 0")
        with db:
            _replace_paths(db, change)
            _replace_identities(db, change)
            _replace_folders(db)
        if checkpointed:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        left_out = {f"{LEDGER}-shm"} | ({f"{LEDGER}-wal"} if checkpointed else set())
        for path in aside.iterdir():  # now: closing the database empties its write-ahead log
            if path.name not in left_out:
                shutil.copy2(path, state)
    shutil.rmtree(aside)


def _replace_paths(db: sqlite3.Connection, change: Change) -> None:
    for table in ("files", "roots", "waiting", "paused", "meta"):
        columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
        to_set = ", ".join(f"{column} = ?" for column in columns)
        for rowid, *values in db.execute(f"SELECT rowid, * FROM {table}").fetchall():  # noqa: S608
            db.execute(
                f"UPDATE {table} SET {to_set} WHERE rowid = ?",  # noqa: S608
                [*map(change.text, values), rowid],
            )


def _replace_identities(db: sqlite3.Connection, change: Change) -> None:
    query = "SELECT id, staged, device, inode, size, mtime_ns, ctime_ns FROM files"
    for number, staged, *identity in db.execute(query).fetchall():
        output = staged and json.dumps(change.identity(json.loads(staged)))
        db.execute(
            "UPDATE files SET staged = ?, device = ?, inode = ?, size = ?, mtime_ns = ?, "
            "ctime_ns = ? WHERE id = ?",
            [output, *change.identity(identity), number],
        )


def _replace_folders(db: sqlite3.Connection) -> None:
    """Which folders the watched ones and the archive are."""
    for (root,) in db.execute("SELECT root FROM roots").fetchall():
        found = os.stat(root)
        db.execute(
            "UPDATE roots SET device = ?, inode = ? WHERE root = ?",
            (found.st_dev, found.st_ino, root),
        )
    [(noted,)] = db.execute("SELECT value FROM meta WHERE key = 'archive'")
    path, _, _, mount = json.loads(noted)
    found = os.stat(path)
    note = json.dumps([path, found.st_dev, found.st_ino, mount])
    db.execute("UPDATE meta SET value = ? WHERE key = 'archive'", (note,))
