"""Pauses and notes stay until they are changed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from lensd.store.ledger import Ledger
from lensd.store.ledger.notes import (
    ArchiveIdentity,
    DegradedRoot,
    PruneInProgress,
    RenamingOriginal,
)
from tests.store.ledger.conftest import ODD


def test_resume_without_paths_ends_all_pauses(ledger: Ledger) -> None:
    """With a path it ends the pause of that path only."""
    ledger.state.pause(["/a", "/b"])
    ledger.state.pause(["/a"])
    ledger.state.resume(["/a", "/never"])
    assert ["/b"] == ledger.state.paused()
    ledger.state.resume([])
    assert [] == ledger.state.paused()


# Each note with a value, and the text that the ledger has for it.
NOTES: dict[str, tuple[Any, str]] = {
    "disk_backoff": ("/archive: the disk is full", "/archive: the disk is full"),
    "degraded": (
        (DegradedRoot("loras", f"/srv/{ODD}", "gone", "not there", 1.5),),
        (
            '[{"watch": "loras", "path": "/srv/caf\\udce9\\n[1]%.safetensors", "reason": "gone", '
            '"message": "not there", "since": 1.5}]'
        ),
    ),
    "archive": (ArchiveIdentity("/archive", 1, 2, None), '["/archive", 1, 2, null]'),
    "renaming_original": (RenamingOriginal("/a", os.fsdecode(b"\xe9")), '["2f61", "e9"]'),
    "prune_in_progress": (PruneInProgress("job", (ODD,)),
                          '["job", ["caf\\udce9\\n[1]%.safetensors"]]'),
    "rebuilding": (("/a", os.fsdecode(b"\xe9")), '["2f61", "e9"]'),
    "last_prune": (1764082800.125, "1764082800.125"),
    "hashed_until": (1764082800.125, "1764082800.125"),
}  # fmt: skip


KEYS = {
    "disk_backoff": "held",
    "degraded": "degraded",
    "archive": "archive",
    "renaming_original": "archive.renaming",
    "prune_in_progress": "pruning",
    "rebuilding": "rebuilding",
    "last_prune": "pruned_at",
    "hashed_until": "hashed_until",
}


@pytest.mark.parametrize("name", NOTES)
def test_a_note_is_kept_across_a_restart(tmp_path: Path, ledger: Ledger, name: str) -> None:
    """With the same key and text as in earlier versions of lensd; `clear` removes it."""
    value, stored = NOTES[name]
    assert getattr(ledger.state, name).get() is None
    getattr(ledger.state, name).set(value)
    ledger.close()
    again = Ledger(str(tmp_path), "1.0")
    assert value == getattr(again.state, name).get()
    rows = again._database.read("SELECT key, value FROM meta")
    assert [(KEYS[name], stored)] == [tuple(row) for row in rows]
    getattr(again.state, name).clear()
    assert getattr(again.state, name).get() is None
    again.close()


@pytest.mark.parametrize("name", sorted(NOTES.keys() - {"disk_backoff"}))
@pytest.mark.parametrize(
    "damaged", [b"", b"{", b"null", b'["x", 1]', b"[[[]]]", b"\xff", b"[" * 100_000]
)
def test_a_damaged_note_reads_as_none(ledger: Ledger, name: str, damaged: bytes) -> None:
    """lensd goes on as if the note had never been set."""
    with ledger._database.change() as db:
        query = "INSERT INTO meta VALUES (?, CAST(? AS TEXT))"
        db.execute(query, (KEYS[name], damaged))
    assert getattr(ledger.state, name).get() is None
    ledger.close()
