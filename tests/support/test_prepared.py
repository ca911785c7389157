"""A prepared command does what `python -m lensd` does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import prepared
from tests.support.home_server import HomeServer
from tests.support.realistic import small_lora


@pytest.mark.parametrize("words", [["--help"], ["status"], ["stats"], ["check", "-c", "config"]])
def test_it_ends_as_a_started_one(tmp_path: Path, words: list[str]) -> None:
    """With the same output, messages and exit code, in the folder that it is given."""
    (tmp_path / "config").write_text("watch: 1\n")
    command = [sys.executable, "-m", "lensd", *words]
    started = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    done = prepared.run(words, tmp_path)
    assert (started.returncode, started.stdout) == (done.returncode, done.stdout)
    assert started.stderr == done.stderr


def test_its_worker_writes_what_a_started_one_writes(tmp_path: Path) -> None:
    """The same bytes, and the same message about a file that is refused."""
    words = ["compress", "style.safetensors", "page.safetensors"]
    found = []
    for name in ("started", "prepared"):
        folder = tmp_path / name
        folder.mkdir()
        small_lora(folder / "style.safetensors", seed=1)
        (folder / "page.safetensors").write_text("<html></html>")
        if name == "prepared":
            done = prepared.run(words, folder)
        else:
            command = [sys.executable, "-m", "lensd", *words]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        output = (folder / "style.lensd.safetensors").read_bytes()
        found.append((done.returncode, done.stdout, done.stderr, output))
    assert found[0] == found[1]


def test_a_daemon_can_be_asked_and_ended(tmp_path: Path) -> None:
    """As one that was started: its process id, its signals, its exit status."""
    server = HomeServer(tmp_path)
    with server.daemon(forked=True) as daemon:
        daemon.wait_for_event("daemon.ready")
        assert daemon.process.poll() is None
        assert server.status()["daemon"] == daemon.process.pid
        assert daemon.stop() == 0
    with server.daemon(forked=True) as daemon:
        daemon.wait_for_event("daemon.ready")
        daemon.kill()
        assert daemon.process.returncode == -signal.SIGKILL


def test_variables_and_names_are_those_of_the_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command has the variables of that moment; a name may be other than UTF-8."""
    name = os.fsdecode(b"caf\xe9.yaml")
    done = prepared.run(["check", "-c", name], tmp_path)
    assert (done.returncode, done.stderr.count("caf\\xe9.yaml")) == (4, 1), done.stderr
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".config/lensd"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("watch: 1\n")
    assert str(folder) in prepared.run(["check"], tmp_path).stdout


def test_commands_run_side_by_side(tmp_path: Path) -> None:
    """One that waits, here for a log, does not hold the others back."""
    os.mkfifo(tmp_path / "log")
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(prepared.run, ["report", "--log", "log"], tmp_path)
        assert prepared.run(["--version"], tmp_path).returncode == 0
        assert not waiting.done()
        (tmp_path / "log").write_bytes(b"")
        assert waiting.result().returncode == 0
