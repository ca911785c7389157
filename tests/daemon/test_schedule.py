"""`worker.schedule`: jobs are begun in a daily window only."""

from __future__ import annotations

import datetime as dt
import signal

import pytest

from tests.support.home_server import HomeServer


def _closed() -> str:
    """A window of an hour that is half a day away."""
    opens = dt.datetime.now().astimezone() + dt.timedelta(hours=12)
    return f"{opens:%H:%M}-{opens + dt.timedelta(hours=1):%H:%M}"


@pytest.mark.slow
def test_outside_of_the_window_jobs_wait(server: HomeServer) -> None:
    """Files are queued, `status` says when; what is asked for is done, and so is `once`."""
    window = _closed()
    server.configure(worker={"schedule": window})
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        path = server.drop("style.safetensors", seed=1).path
        daemon.wait_for_file(path, "file.settled")
        status = server.status()
        assert [job["path"] for job in status["queued"]] == [str(path)]
        assert status["schedule"] == {"window": window, "open": False}
        assert server.lensd("retry").returncode == 0
        assert daemon.of(path)[-1] == "file.settled"
        server.configure()
        daemon.process.send_signal(signal.SIGHUP)
        assert daemon.wait_for_file(path)["event"] == "file.compressed"
    server.configure(worker={"schedule": _closed()})
    other = server.drop("other.safetensors", seed=2).path
    assert str(other) in [e["path"] for e in server.once() if e["event"] == "file.compressed"]
