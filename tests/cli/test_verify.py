"""`lensd verify`: what is damaged or missing is told; what people do to their files is no fault."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.home_server import HomeServer, Seen, wait_until

NAMES = ("fine", "rotten", "replaced", "gone", "damaged", "lost", "restored", "touched")


class Files:
    """A home server after one run. Each test has its own file."""

    def __init__(self, server: HomeServer) -> None:
        self.server = server
        for seed, name in enumerate(NAMES):
            server.drop(f"sub/{name}.safetensors", seed=seed)
        server.once()

    def take(self, name: str) -> tuple[HomeServer, Path]:
        return self.server, self.server.loras / "sub" / f"{name}.safetensors"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(HomeServer(tmp_path_factory.mktemp("server")))


@pytest.fixture
def server(tmp_path: Path) -> HomeServer:
    return HomeServer(tmp_path)


def _verify(server: HomeServer, *arguments: str | Path, code: int) -> dict[str, dict[str, Any]]:
    """`original` and `output` of what was looked at, by the name in the watched folder."""
    done = server.lensd("verify", "--json", *arguments)
    assert done.returncode == code, done.stderr + done.stdout
    report = json.loads(done.stdout)
    assert (report["faults"] > 0) == (code == 1)
    found: dict[str, dict[str, Any]] = {}
    for file in report["files"]:
        found.setdefault(file["of"], {})[file["kind"]] = file
    return found


def _rot(path: Path) -> None:
    """One bit, with the date as it was: as a disk does it."""
    found = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def _replace(path: Path) -> None:
    path.write_bytes(b"somebody's own bytes")


def test_all_is_well(files: Files) -> None:
    """A line for each file and one that sums up; nothing is changed, nothing on stderr."""
    server, path = files.take("fine")
    before = [Seen.of(path), Seen.of(server.archived(path))]
    done = server.lensd("verify", path)
    assert (done.returncode, done.stderr) == (0, "")
    original, output, summary = done.stdout.splitlines()
    assert original.split() == ["ok", "original", str(server.archived(path))]
    assert output.split() == ["ok", "output", str(path)]
    assert "1 original ok, 1 output ok" in summary
    assert before == [Seen.of(path), Seen.of(server.archived(path))]


@pytest.mark.parametrize(
    ("name", "harm", "kind", "state", "code"),
    [
        ("rotten", _rot, "output", "damaged", 1),
        ("replaced", _replace, "output", "changed", 0),
        ("gone", Path.unlink, "output", "gone", 0),
        ("damaged", _rot, "original", "damaged", 1),
        ("lost", Path.unlink, "original", "missing", 1),
    ],
)
def test_each_harm_has_its_word(
    files: Files, name: str, harm: object, kind: str, state: str, code: int
) -> None:
    """And the other half of the pair is well."""
    server, path = files.take(name)
    assert callable(harm)
    harm(path if kind == "output" else server.archived(path))
    [found] = _verify(server, path, code=code).values()
    other = "original" if kind == "output" else "output"
    assert (found[kind]["state"], found[other]["state"]) == (state, "ok")
    assert found[kind]["sha256"] != found[other]["sha256"]


def test_a_touched_output_is_well(files: Files) -> None:
    """Only the bytes count."""
    server, path = files.take("touched")
    path.touch()
    [found] = _verify(server, path, code=0).values()
    assert found["output"]["state"] == "ok"


def test_a_restored_file_is_not_missed(files: Files) -> None:
    """Its original moved back: there is nothing of it to verify."""
    server, path = files.take("restored")
    assert server.lensd("restore", path).returncode == 0
    assert _verify(server, path, code=0) == {}


def test_paths(files: Files) -> None:
    """A folder stands for all in it; one that lensd does not know is a usage error."""
    server, path = files.take("fine")
    found = _verify(server, path.parent, code=_verify_code(server, path.parent))
    assert {str(path)} < set(found)
    done = server.lensd("verify", server.elsewhere)
    assert done.returncode == 2
    assert "restore --list" in done.stderr


def _verify_code(server: HomeServer, path: Path) -> int:
    return server.lensd("verify", path).returncode


@pytest.mark.slow
def test_older_versions_are_read_too(server: HomeServer) -> None:
    """Also when the ledger that knew of them was lost: the folder's name is their hash."""
    path = server.drop("style.safetensors", seed=1).path
    first = Seen.of(path).sha256
    server.once()
    server.drop("style.safetensors", seed=2)
    server.once()
    version = server.archive / ".versions" / first / "loras" / path.name
    assert "2 original ok" in server.lensd("verify").stdout
    _rot(version)
    done = server.lensd("verify")
    assert done.returncode == 1
    assert f"damaged     original {version}" in done.stdout
    for file in server.state.glob("ledger*"):
        file.unlink()
    server.once()
    done = server.lensd("verify")
    assert f"damaged     original {version}" in done.stdout


@pytest.mark.slow
def test_a_restored_older_version_is_not_missed(server: HomeServer) -> None:
    """It moved back out of `.versions`; the newer original is still verified."""
    path = server.drop("style.safetensors", seed=1).path
    first = Seen.of(path).sha256
    server.once()
    server.drop("style.safetensors", seed=2)
    server.once()
    assert server.lensd("restore", path, "--version", first).returncode == 0
    [found] = _verify(server, code=0).values()
    assert found["original"]["state"] == "ok"


@pytest.mark.slow
def test_folders_that_are_not_there(server: HomeServer) -> None:
    """An unmounted folder is told as such; without the archive nothing can be said: exit 5."""
    path = server.drop("style.safetensors").path
    server.once()
    server.loras.rename(server.top / "away")
    [found] = _verify(server, code=1).values()
    assert (found["output"]["state"], found["original"]["state"]) == ("unreachable", "ok")
    assert str(path) == found["output"]["path"]
    (server.top / "away").rename(server.loras)
    shutil.move(server.archive, server.top / "moved")
    done = server.lensd("verify")
    assert done.returncode == 5
    assert "mount its disk" in done.stderr


@pytest.mark.slow
def test_beside_a_busy_daemon_nothing_is_called_a_fault(server: HomeServer) -> None:
    """Files arrive, are compressed, replaced and compressed again while everything is read."""
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready", 30)
        paths = [server.drop(f"{n}.safetensors", seed=n).path for n in range(6)]
        wait_until(lambda: server.lensd("verify").returncode == 0, "a ledger is there")
        for n, path in enumerate(paths):
            server.drop(path.name, seed=100 + n)
            done = server.lensd("verify")
            assert done.returncode == 0, done.stdout
        wait_until(lambda: not _unfinished(server), "all is compressed", 120)
        done = server.lensd("verify")
        assert done.returncode == 0, done.stdout
        assert "6 output ok" in done.stdout


def _unfinished(server: HomeServer) -> list[Any]:
    status = server.status()
    return [*status["running"], *status["queued"], *status["waiting"]]
