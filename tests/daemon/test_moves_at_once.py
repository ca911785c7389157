"""Two threads move rows at once, and share the one note that a restart after a crash reads."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from lensd import __version__
from lensd.config.load import load_for_run
from lensd.daemon.control_messages import RestoreRequest
from lensd.daemon.inbox import Inbox
from lensd.daemon.loop import Daemon
from lensd.store.lease import block_lease_signal
from lensd.store.ledger import Ledger
from tests.support.home_server import HomeServer
from tests.support.realistic import small_lora

FILES = 6


@pytest.fixture
def server(tmp_path: Path) -> HomeServer:
    """Two watched folders with compressed files that were renamed since."""
    server = HomeServer(tmp_path)
    folders = tmp_path / "a", tmp_path / "b"
    server.configure(watch=[{"path": str(folder)} for folder in folders])
    for seed, folder in enumerate(folders):
        folder.mkdir()
        for number in range(FILES):
            small_lora(folder / f"{number}.safetensors", seed=seed * FILES + number)
    server.once("--yes")
    for folder in folders:
        for number in range(FILES):
            (folder / f"{number}.safetensors").rename(folder / f"moved {number}.safetensors")
    return server


@pytest.mark.slow
def test_two_moves_never_share_the_crash_note(server: HomeServer) -> None:
    """The main loop follows renamed files of one folder, a request restores those of another: each
    move clears its note before the next one writes its own.
    """
    block_lease_signal()
    ledger = Ledger(str(server.state), __version__)
    config = load_for_run(str(server.config))
    daemon = Daemon(config, ledger, time.monotonic(), Inbox())
    app, handler = daemon._app, daemon._handler
    app.watch_here()
    notes: list[tuple[str, str]] = []

    def trace(statement: str) -> None:
        verb = statement.split(maxsplit=1)[0]
        if "'archive.renaming'" in statement and verb != "SELECT":
            notes.append((verb, threading.current_thread().name))

    ledger._database.connection.set_trace_callback(trace)
    paths = tuple(str(path) for path in sorted((server.top / "b").glob("*.safetensors")))
    both = threading.Barrier(2, timeout=60)

    def restore() -> None:
        both.wait()
        handler.handle(RestoreRequest(paths=paths), lambda _: None)

    request = threading.Thread(target=restore, name="jobs")
    request.start()
    both.wait()
    assert app.intake.scan(config.watch[0], time.monotonic())
    request.join()
    ledger._database.connection.set_trace_callback(None)
    app.close()
    ledger.close()
    assert 2 * 2 * FILES == len(notes)
    assert {"MainThread", "jobs"} == {thread for _, thread in notes}
    for written, cleared in zip(notes[::2], notes[1::2], strict=True):
        assert (written, cleared) == (("INSERT", written[1]), ("DELETE", written[1]))
