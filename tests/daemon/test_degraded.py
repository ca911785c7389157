"""A watched folder that cannot be reached is degraded, never taken for an empty one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.home_server import HomeServer


@pytest.mark.fault("folder gone")
def test_a_folder_that_goes_and_comes_back(tmp_path: Path) -> None:
    """One line when it is gone, one when it is there again; then files are taken as before."""
    server = HomeServer(tmp_path)
    server.configure(settle={"rescan_seconds": 0.3})
    with server.daemon(forked=True) as daemon:
        daemon.wait_for_event("daemon.ready")
        server.loras.rename(tmp_path / "gone")
        line = daemon.wait_for_event("daemon.degraded")
        assert line["reason"] == "unreachable"
        assert "Mount it" in line["message"]
        (tmp_path / "gone").rename(server.loras)
        daemon.wait_for_event("daemon.recovered")
        server.drop("late.safetensors")
        daemon.wait_for_event("file.compressed")
    events = [line["event"] for line in daemon.lines]
    assert events.count("daemon.degraded") == 1
