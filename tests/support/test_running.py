"""Waiting for a daemon's log lines, with a real child process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.running import DaemonError, RunningDaemon


def test_a_daemon_that_ends_at_once_is_an_error_with_its_stderr(tmp_path: Path) -> None:
    """What it said on stderr is in the message: here, that its configuration is not there."""
    missing = tmp_path / "none.yaml"
    with (
        RunningDaemon(missing, tmp_path / "stderr") as daemon,
        pytest.raises(DaemonError, match=r"ended \(\d+\) before any daemon\.ready") as failure,
    ):
        daemon.wait_for_event("daemon.ready")
    assert daemon.process.returncode not in (None, 0)
    said = (tmp_path / "stderr").read_text()
    assert said
    assert said in str(failure.value)
