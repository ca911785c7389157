"""`lensd verify`: what is damaged or missing is told; what people do to their files is no fault."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.home_server import HomeServer, Seen, wait_until


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


# name: what happens to it, to which of the pair, and the word for it
HARMS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "rotten": (_rot, "output", "damaged"),
    "replaced": (_replace, "output", "changed"),
    "gone": (Path.unlink, "output", "gone"),
    "damaged": (_rot, "original", "damaged"),
    "lost": (Path.unlink, "original", "missing"),
    "touched": (Path.touch, "output", "ok"),
}
NAMES = ("fine", "restored", *HARMS)


class Verified:
    """A home server after one run, whose files then came to harm, and what `verify` says of it."""

    def __init__(self, server: HomeServer) -> None:
        self.server = server
        self.path = {n: server.loras / "sub" / f"{n}.safetensors" for n in NAMES}
        for seed, name in enumerate(NAMES):
            server.drop(f"sub/{name}.safetensors", seed=seed)
        server.once()
        for name, (harm, kind, _) in HARMS.items():
            harm(self.path[name] if kind == "output" else server.archived(self.path[name]))
        assert server.lensd("restore", self.path["restored"]).returncode == 0
        before = self._seen()
        self.found = _verify(server, code=1)
        assert before == self._seen()

    def _seen(self) -> dict[Path, Seen]:
        places = (self.server.loras, self.server.archive)
        return {p: Seen.of(p) for place in places for p in place.rglob("*.safetensors")}


@pytest.fixture(scope="module")
def verified(tmp_path_factory: pytest.TempPathFactory) -> Verified:
    return Verified(HomeServer(tmp_path_factory.mktemp("server")))


@pytest.fixture
def server(tmp_path: Path) -> HomeServer:
    return HomeServer(tmp_path)


def test_all_is_well(verified: Verified) -> None:
    """A line for each file and one that sums up; nothing on stderr without a terminal."""
    path = verified.path["fine"]
    done = verified.server.lensd("verify", path)
    assert (done.returncode, done.stderr) == (0, "")
    original, output, summary = done.stdout.splitlines()
    assert original.split() == ["ok", "original", str(verified.server.archived(path))]
    assert output.split() == ["ok", "output", str(path)]
    assert "1 original ok, 1 output ok" in summary


@pytest.mark.parametrize("name", HARMS)
def test_each_harm_has_its_word(verified: Verified, name: str) -> None:
    """The other half of the pair is well."""
    _, kind, state = HARMS[name]
    found = verified.found[str(verified.path[name])]
    other = "original" if kind == "output" else "output"
    assert (found[kind]["state"], found[other]["state"]) == (state, "ok")
    assert found[kind]["sha256"] != found[other]["sha256"]


def test_a_restored_file_is_not_missed(verified: Verified) -> None:
    """Its original moved back: there is nothing of it to verify."""
    assert str(verified.path["restored"]) not in verified.found


@pytest.mark.parametrize(("name", "code"), [("replaced", 0), ("gone", 0), ("rotten", 1)])
def test_only_damage_is_a_fault(verified: Verified, name: str, code: int) -> None:
    """What people do with their own files is none."""
    _verify(verified.server, verified.path[name], code=code)


def test_a_folder_stands_for_all_in_it(verified: Verified) -> None:
    """And one that lensd does not know is a usage error."""
    assert len(verified.found) == len(NAMES) - 1
    done = verified.server.lensd("verify", verified.path["fine"].parent)
    assert done.returncode == 1
    assert str(verified.path["fine"]) in done.stdout
    done = verified.server.lensd("verify", verified.server.elsewhere)
    assert done.returncode == 2
    assert "restore --list" in done.stderr


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
        daemon.wait_for_event("daemon.ready")
        paths = [server.drop(f"{n}.safetensors", seed=n).path for n in range(6)]
        wait_until(lambda: server.lensd("verify").returncode == 0, "a ledger is there")
        for n, path in enumerate(paths):
            server.drop(path.name, seed=100 + n)
            done = server.lensd("verify")
            assert done.returncode == 0, done.stdout
        wait_until(lambda: not _unfinished(server), "all is compressed")
        done = server.lensd("verify")
        assert done.returncode == 0, done.stdout
        assert "6 output ok" in done.stdout


def _unfinished(server: HomeServer) -> list[Any]:
    status = server.status()
    return [*status["running"], *status["queued"], *status["waiting"]]
