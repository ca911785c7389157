"""One lensd per state folder."""

from __future__ import annotations

from tests.daemon.conftest import Running
from tests.support.home_server import Seen


def test_a_second_daemon_names_the_first(running: Running) -> None:
    """Exit 6 with the first one's process id and the remedy; `once` alike; the first goes on."""
    server, daemon = running
    for verb in ("run", "once"):
        done = server.lensd(verb)
        assert (done.returncode, done.stdout) == (6, "")
        assert str(daemon.process.pid) in done.stderr
        assert "stop it" in done.stderr
    path = server.drop("style.safetensors", seed=1).path
    assert daemon.wait_for_file(path)["event"] == "file.compressed"
    assert server.status()["daemon"] == daemon.process.pid


def test_restore_does_not_cross_a_running_daemon(running: Running) -> None:
    """Exit 6, and the file as well as its original stay where they are."""
    server, daemon = running
    path = server.drop("kept.safetensors", seed=2).path
    daemon.wait_for_file(path, "file.compressed")
    before = Seen.of(path), Seen.of(server.archived(path))
    done = server.lensd("restore", path)
    assert done.returncode == 6
    assert str(daemon.process.pid) in done.stderr
    assert before == (Seen.of(path), Seen.of(server.archived(path)))


def test_a_list_may_be_had_beside_a_running_daemon(running: Running) -> None:
    """Reading changes nothing, so it needs no lock."""
    server, daemon = running
    path = server.drop("listed.safetensors", seed=3).path
    daemon.wait_for_file(path, "file.compressed")
    done = server.lensd("restore", "--list")
    assert done.returncode == 0
    assert str(path) in done.stdout
