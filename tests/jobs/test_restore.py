"""What a restore of several files does when lensd is to stop."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lensd import __version__
from lensd.config.load import load_for_run
from lensd.daemon.control_messages import Message, RestoreRequest
from lensd.daemon.requests import RequestHandler
from lensd.logs.events import Event
from lensd.store.archive import Archive
from lensd.store.lease import block_lease_signal
from lensd.store.ledger import Ledger
from lensd.watcher.move_tracker import MoveTracker
from tests.support.home_server import HomeServer, Seen


@pytest.mark.slow
def test_a_restore_of_many_files_stops_between_two(tmp_path: Path) -> None:
    """It says how many are left; these stay compressed, and nothing is half done."""
    block_lease_signal()
    server = HomeServer(tmp_path)
    paths = [server.drop(f"{n}.safetensors", seed=n).path for n in range(3)]
    before = [Seen.of(path).sha256 for path in paths]
    server.once()
    ledger = Ledger(str(server.state), __version__)
    archive = Archive(os.path.realpath(server.archive))
    events: list[Event] = []
    said: list[Message] = []
    config = load_for_run(str(server.config))
    tracker = MoveTracker(config.watch, ledger, archive, events.append)
    handler = RequestHandler(
        config, ledger, archive, events.append, tracker, stop=lambda: bool(events)
    )
    assert handler.restore(RestoreRequest(everything=True), said.append) == 1
    ledger.close()
    restored = [p for p, sha256 in zip(paths, before, strict=True) if Seen.of(p).sha256 == sha256]
    assert len(restored) == 1
    assert "2 files are not restored" in said[-1].say
    assert [] == server.temporaries()
    assert server.lensd("verify").returncode == 0
