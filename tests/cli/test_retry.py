"""`lensd retry`: the way back for a file that failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.home_server import HomeServer


@pytest.fixture
def server(tmp_path: Path) -> HomeServer:
    """After a run in which `bad.safetensors` failed on its infinite weights."""
    server = HomeServer(tmp_path)
    bad = server.drop("bad.safetensors", seed=1).path
    bad.write_bytes(bad.read_bytes()[:-2] + b"\xff\x7f")
    server.once(code=1)
    return server


@pytest.mark.slow
def test_the_next_start_takes_it_up_again(server: HomeServer) -> None:
    """The problem is gone from the status, and the daemon looks at the file as at a new one."""
    done = server.lensd("retry")
    assert (done.returncode, done.stderr) == (
        0,
        "lensd: 1 file will be tried again when lensd runs\n",
    )
    assert server.status()["problems"] == []
    with server.daemon() as daemon:
        line = daemon.wait_for_event("file.failed")
    assert line["reason"] == "not_finite"


@pytest.mark.slow
def test_only_the_named_file(server: HomeServer) -> None:
    """A path that has no problem is an error that says where those with one are listed."""
    fine = server.lensd("retry", server.loras / "fine.safetensors")
    assert fine.returncode == 2
    assert "lensd status" in fine.stderr
    assert len(server.status()["problems"]) == 1
    assert server.lensd("retry", server.loras / "bad.safetensors").returncode == 0
    assert server.status()["problems"] == []


@pytest.mark.slow
def test_a_failed_file_that_was_deleted(server: HomeServer) -> None:
    """It is no problem any more; nothing is tried again, and the next run forgets it."""
    bad = server.loras / "bad.safetensors"
    server.drop("good.safetensors", seed=2)
    bad.unlink()
    assert server.status()["problems"] == []
    server.once()
    assert "failed" not in server.status()["totals"]["outcomes"]
    server.drop("bad.safetensors", seed=1)
    bad.write_bytes(bad.read_bytes()[:-2] + b"\xff\x7f")
    server.once(code=1)
    assert len(server.status()["problems"]) == 1
    bad.unlink()
    done = server.lensd("retry", bad)
    assert done.returncode == 0
    assert "1 failed file is not there any more; nothing is tried again" in done.stderr


@pytest.mark.slow
def test_a_failed_file_that_was_replaced_by_a_good_one(server: HomeServer) -> None:
    """There is nothing to try again."""
    server.drop("bad.safetensors", seed=3)
    server.once()
    assert "no file has failed" in server.lensd("retry").stderr
