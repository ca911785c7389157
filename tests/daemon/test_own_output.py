"""lensd's own output, restored files, and originals that come back: treated once and no more."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.daemon.conftest import Running
from tests.support.home_server import HomeServer, Seen
from tests.support.running import RunningDaemon


def _settle_all(server: HomeServer, daemon: RunningDaemon, name: str = "marker") -> None:
    """When a file that came later is through, so are those before it."""
    made = server.drop(f"{name}.safetensors", seed=99)
    daemon.wait_for_file(made.path, "file.compressed")


@pytest.mark.fault("own output")
@pytest.mark.slow
def test_a_copy_of_an_output_is_not_compressed_again(server: HomeServer) -> None:
    """Under another name, and also after the ledger is lost, whatever `existing` says."""
    made = server.drop("style.safetensors", seed=1)
    copy = server.loras / "renamed.safetensors"
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        made = server.drop("style.safetensors", seed=1)
        daemon.wait_for_file(made.path, "file.compressed")
        shutil.copy2(made.path, copy)
        _settle_all(server, daemon)
    outputs = [Seen.of(made.path), Seen.of(copy)]
    assert ["file.detected"] == daemon.of(copy)
    for existing in ("leave", "compress"):
        shutil.rmtree(server.state)
        server.configure(watch=[{"path": str(server.loras), "existing": existing}])
        with server.daemon() as daemon:
            daemon.wait_for_event("daemon.ready")
            _settle_all(server, daemon, existing)
        ends = {e for p in (made.path, copy) for e in daemon.of(p)}
        assert ends <= {"file.detected"}
        assert outputs == [Seen.of(made.path), Seen.of(copy)]
    assert server.once()[-1]["event"] != "file.compressed"
    assert outputs == [Seen.of(made.path), Seen.of(copy)]


@pytest.mark.slow
def test_a_restored_file_is_left_alone(server: HomeServer) -> None:
    """After a restart and an `once`; `once --redo` compresses it again."""
    made = server.make("style.safetensors", seed=2)
    before = Seen.of(made.path)
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        path = server.move_in(made.path)
        daemon.wait_for_file(path, "file.compressed")
    assert server.lensd("restore", path).returncode == 0
    assert before == Seen.of(path)
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        _settle_all(server, daemon)
    assert [] == daemon.of(path)
    assert before == Seen.of(path)
    assert not [line for line in server.once() if line["event"].startswith("file.")]
    assert before == Seen.of(path)
    events = [line["event"] for line in server.once("--redo", path)]
    assert "file.compressed" in events
    assert Seen.of(path).size < before.size
    assert Seen.of(server.archived(path)).sha256 == before.sha256


@pytest.mark.slow
def test_a_restored_file_with_new_content_is_a_new_file(server: HomeServer) -> None:
    """Only what was restored is left alone, not its name."""
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        path = server.drop("style.safetensors", seed=3).path
        daemon.wait_for_file(path, "file.compressed")
    assert server.lensd("restore", path).returncode == 0
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        server.drop("style.safetensors", seed=4)
        assert daemon.wait_for_file(path)["event"] == "file.compressed"


def test_an_original_that_keeps_coming_back_is_kept(running: Running) -> None:
    """A sync program puts it there again and again: the third time it stays, with the remedy."""
    server, daemon = running
    data = server.make("synced", seed=5).path.read_bytes()
    path = server.loras / "synced.safetensors"
    for _ in range(2):
        _put(path, data)
        assert daemon.wait_for_file(path)["event"] == "file.compressed"
    _put(path, data)
    line = daemon.wait_for_file(path)
    assert ("file.kept", "returned") == (line["event"], line["reason"])
    assert "sync" in line["message"]
    assert path.read_bytes() == data
    _settle_all(server, daemon, "after_returned")
    assert daemon.of(path)[-1] == "file.kept"
    assert path.read_bytes() == data
    assert server.archived(path).read_bytes() == data
    assert [] == server.temporaries()
    assert server.lensd("once", "--redo", path).returncode == 0  # the remedy
    assert daemon.wait_for_file(path)["event"] == "file.compressed"


@pytest.mark.slow
def test_a_person_may_restore_and_compress_a_file_again_and_again(server: HomeServer) -> None:
    """No program brought the original back: `lensd restore` did."""
    path = server.drop("style.safetensors", seed=3).path
    server.once()
    for _ in range(3):
        assert server.lensd("restore", path).returncode == 0
        events = {line["event"] for line in server.once("--redo", path)}
        assert "file.compressed" in events


def _put(path: Path, data: bytes) -> None:
    other = path.with_name("incoming")
    other.write_bytes(data)
    other.rename(path)


@pytest.mark.parametrize("change", ["touch", "chmod"])
def test_an_output_that_is_only_touched_stays(running: Running, change: str) -> None:
    """A new time or new rights make no new file."""
    server, daemon = running
    path = server.drop(f"{change}.safetensors", seed=6).path
    daemon.wait_for_file(path, "file.compressed")
    if change == "touch":
        path.touch()
    else:
        path.chmod(0o600)
    sha256 = Seen.of(path).sha256
    _settle_all(server, daemon, f"after_{change}")
    assert sha256 == Seen.of(path).sha256
    assert daemon.of(path).count("file.compressed") == 1
