"""`lensd run`: errors that prevent the start of the daemon."""

from __future__ import annotations

from pathlib import Path

from tests.support.home_server import HomeServer


def test_a_faulty_configuration(tmp_path: Path) -> None:
    """Exit code 4 with the fault; no folder is created and no line is logged."""
    server = HomeServer(tmp_path)
    server.configure(defaults={"mode": "smallest"})
    done = server.lensd("run")
    assert (done.returncode, done.stdout) == (4, "")
    assert "mode" in done.stderr
    assert not server.state.exists()


def test_a_state_folder_that_cannot_be_created(tmp_path: Path) -> None:
    """A file has its name: the message has a remedy and no traceback."""
    server = HomeServer(tmp_path)
    server.state.write_text("x")
    done = server.lensd("run")
    assert done.returncode in (4, 5)
    assert "Traceback" not in done.stderr
    assert "state" in done.stderr
