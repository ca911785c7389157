"""What lay in a folder before lensd first saw it, and what came while lensd was not running."""

from __future__ import annotations

import pytest

from tests.support.home_server import HomeServer, Seen
from tests.support.realistic import small_lora


@pytest.mark.slow
def test_what_is_there_is_left_and_once_treats_it(server: HomeServer) -> None:
    """`existing: leave`: a baseline line with files and bytes, nothing touched; `once` does it."""
    made = [server.drop(f"{n}.safetensors", seed=n) for n in range(2)]
    before = [Seen.of(m.path) for m in made]
    (server.loras / "readme.txt").write_text("no LoRA")
    with server.daemon() as daemon:
        line = daemon.wait_for_event("daemon.baseline")
        assert (line["files"], line["bytes"]) == (2, sum(b.size for b in before))
        assert (line["watch"], line["path"]) == ("loras", str(server.loras))
        new = server.drop("new.safetensors", seed=3)
        daemon.wait_for_file(new.path, "file.compressed")
        assert daemon.stop() == 0
    assert before == [Seen.of(m.path) for m in made]
    assert not [line for line in daemon.lines if line.get("path") == str(made[0].path)]
    arrived = server.drop("while_down.safetensors", seed=4)
    with server.daemon() as daemon:
        line = daemon.wait_for_file(arrived.path)
        assert line["event"] == "file.compressed"
    assert "daemon.baseline" not in [line["event"] for line in daemon.lines]
    assert before == [Seen.of(m.path) for m in made]
    lines = server.once()
    done = {line["path"] for line in lines if line["event"] == "file.compressed"}
    assert {str(m.path) for m in made} == done


def test_what_is_there_may_be_wanted(server: HomeServer) -> None:
    """`existing: compress` for one folder of two, each with a mode of its own."""
    folders = {name: server.loras / name for name in ("eager", "shy")}
    for folder in folders.values():
        folder.mkdir()
        small_lora(folder / "style.safetensors", seed=1)
    before = Seen.of(folders["shy"] / "style.safetensors")
    server.configure(
        watch=[
            {"path": str(folders["eager"]), "existing": "compress", "mode": "rank"},
            {"path": str(folders["shy"]), "name": "quiet one"},
        ]
    )
    with server.daemon(forked=True) as daemon:
        line = daemon.wait_for_event("file.compressed")
        assert (line["watch"], line["mode"]) == ("eager", "rank")
        assert line["path"] == str(folders["eager"] / "style.safetensors")
    baseline = {line["watch"]: line for line in daemon.lines if line["event"] == "daemon.baseline"}
    assert {"eager": 0, "quiet one": 1} == {name: line["files"] for name, line in baseline.items()}
    assert before == Seen.of(folders["shy"] / "style.safetensors")
    assert [] == server.temporaries()
