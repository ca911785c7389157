"""`lensd run`: what keeps the daemon from starting at all."""

from __future__ import annotations

from pathlib import Path

from tests.support.home_server import HomeServer


def test_a_faulty_configuration_keeps_it_from_starting(tmp_path: Path) -> None:
    """Exit 4 with the fault; neither a folder nor a line is made."""
    server = HomeServer(tmp_path)
    server.configure(defaults={"mode": "smallest"})
    done = server.lensd("run")
    assert (done.returncode, done.stdout) == (4, "")
    assert "mode" in done.stderr
    assert not server.state.exists()


def test_a_state_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """A file is in its place: a message with the remedy, no traceback."""
    server = HomeServer(tmp_path)
    server.state.write_text("x")
    done = server.lensd("run")
    assert done.returncode in (4, 5)
    assert "Traceback" not in done.stderr
    assert "state" in done.stderr
