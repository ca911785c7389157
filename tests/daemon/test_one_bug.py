"""A job whose row the ledger refuses to change ends with a line, and the queue goes on."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from lensd.store.ledger import LEDGER
from tests.support.home_server import HomeServer

REFUSE = """
CREATE TRIGGER refuse BEFORE UPDATE ON files
WHEN NEW.path = CAST('b.safetensors' AS BLOB) AND NEW.state <> 'queued'
BEGIN SELECT RAISE(ABORT, 'no such row'); END
"""


@pytest.mark.slow
def test_a_job_that_the_ledger_refuses_ends_one_file(tmp_path: Path) -> None:
    """In the running daemon, and after a restart with its row still in the queue."""
    server = HomeServer(tmp_path)
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
    with closing(sqlite3.connect(server.state / LEDGER)) as db, db:
        db.execute(REFUSE)
    refused = server.loras / "b.safetensors"
    for turn in range(2):
        with server.daemon() as daemon:
            if turn == 0:
                daemon.wait_for_event("daemon.ready")
                server.drop(refused.name)
            failed = daemon.wait_for_file(refused)
            assert (failed["event"], failed["reason"]) == ("file.failed", "internal")
            other = server.drop(f"c{turn}.safetensors", seed=turn + 1).path
            assert daemon.wait_for_file(other)["event"] == "file.compressed"
            assert daemon.stop() == 0
