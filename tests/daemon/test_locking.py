"""One lensd per state folder."""

from __future__ import annotations

import pytest

from tests.daemon.conftest import Running


@pytest.mark.fault("two daemons")
def test_a_second_daemon_names_the_first(running: Running) -> None:
    """Exit 6 with the first one's process id and how to stop it; the first goes on."""
    server, daemon = running
    done = server.lensd("run")
    assert (done.returncode, done.stdout) == (6, "")
    assert f"`kill {daemon.process.pid}`" in done.stderr
    assert "`systemctl stop lensd`" in done.stderr
    path = server.drop("style.safetensors", seed=1).path
    assert daemon.wait_for_file(path)["event"] == "file.compressed"
    assert server.status()["daemon"] == daemon.process.pid


def test_a_list_may_be_had_beside_a_running_daemon(running: Running) -> None:
    """Reading changes nothing, so it needs no lock."""
    server, daemon = running
    path = server.drop("listed.safetensors", seed=3).path
    daemon.wait_for_file(path, "file.compressed")
    done = server.lensd("restore", "--list")
    assert done.returncode == 0
    assert str(path) in done.stdout
