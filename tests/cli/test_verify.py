"""`lensd verify`: it reports damaged and missing files; files that people changed are no fault."""

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
    """The findings: by path in the watched folder, then by kind (`original`, `output`)."""
    done = server.lensd("verify", "--json", *arguments)
    assert done.returncode == code, done.stderr + done.stdout
    report = json.loads(done.stdout)
    assert (report["faults"] > 0) == (code == 1)
    found: dict[str, dict[str, Any]] = {}
    for file in report["files"]:
        found.setdefault(file["of"], {})[file["kind"]] = file
    return found


def _flip_bit(path: Path) -> None:
    """Change one bit and keep the dates, as a failing disk does."""
    found = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def _replace(path: Path) -> None:
    path.write_bytes(b"bytes of another program")


# name: what happens to the file, to which of the pair, and the state that is reported
HARMS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "rotten": (_flip_bit, "output", "damaged"),
    "replaced": (_replace, "output", "changed"),
    "gone": (Path.unlink, "output", "gone"),
    "damaged": (_flip_bit, "original", "damaged"),
    "lost": (Path.unlink, "original", "missing"),
    "touched": (Path.touch, "output", "ok"),
}
NAMES = ("fine", "restored", *HARMS)


class Verified:
    """A home server after one run and some damage, and the findings of `verify`."""

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


def test_files_that_are_ok(verified: Verified) -> None:
    """One line per file and a summary; without a terminal, stderr has nothing."""
    path = verified.path["fine"]
    done = verified.server.lensd("verify", path)
    assert (done.returncode, done.stderr) == (0, "")
    original, output, summary = done.stdout.splitlines()
    assert original.split() == ["ok", "original", str(verified.server.archived(path))]
    assert output.split() == ["ok", "output", str(path)]
    assert "1 original ok, 1 output ok" in summary


@pytest.mark.parametrize("name", HARMS)
def test_each_damage_has_its_state(verified: Verified, name: str) -> None:
    """The other file of the pair is ok."""
    _, kind, state = HARMS[name]
    found = verified.found[str(verified.path[name])]
    other = "original" if kind == "output" else "output"
    assert (found[kind]["state"], found[other]["state"]) == (state, "ok")
    assert found[kind]["sha256"] != found[other]["sha256"]


def test_a_restored_file_is_not_missing(verified: Verified) -> None:
    """Its original moved back, so there is nothing to verify."""
    assert str(verified.path["restored"]) not in verified.found


@pytest.mark.parametrize(("name", "code"), [("replaced", 0), ("gone", 0), ("rotten", 1)])
def test_only_damage_is_a_fault(verified: Verified, name: str, code: int) -> None:
    """A file that a person replaced or deleted is no fault."""
    _verify(verified.server, verified.path[name], code=code)


def test_a_folder_selects_its_files(verified: Verified) -> None:
    """A folder that lensd does not know is a usage error."""
    assert len(verified.found) == len(NAMES) - 1
    done = verified.server.lensd("verify", verified.path["fine"].parent)
    assert done.returncode == 1
    assert str(verified.path["fine"]) in done.stdout
    done = verified.server.lensd("verify", verified.server.elsewhere)
    assert done.returncode == 2
    assert "restore --list" in done.stderr


@pytest.mark.slow
def test_older_versions_are_verified(server: HomeServer) -> None:
    """Even if the ledger was lost, because the name of the folder is the hash."""
    path = server.drop("style.safetensors", seed=1).path
    first = Seen.of(path).sha256
    server.once()
    server.drop("style.safetensors", seed=2)
    server.once()
    version = server.archive / ".versions" / first / "loras" / path.name
    assert "2 originals ok" in server.lensd("verify").stdout
    _flip_bit(version)
    done = server.lensd("verify")
    assert done.returncode == 1
    assert f"damaged     original {version}" in done.stdout
    for file in server.state.glob("ledger*"):
        file.unlink()
    server.once()
    done = server.lensd("verify")
    assert f"damaged     original {version}" in done.stdout


@pytest.mark.slow
def test_a_restored_older_version_is_not_missing(server: HomeServer) -> None:
    """It moved back from `.versions`; the newer original is still verified."""
    path = server.drop("style.safetensors", seed=1).path
    first = Seen.of(path).sha256
    server.once()
    server.drop("style.safetensors", seed=2)
    server.once()
    assert server.lensd("restore", path, "--version", first).returncode == 0
    [found] = _verify(server, code=0).values()
    assert found["original"]["state"] == "ok"


@pytest.mark.slow
def test_missing_folders(server: HomeServer) -> None:
    """Files of a missing watched folder are unreachable; without the archive, exit code 5."""
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
def test_a_busy_daemon_causes_no_faults(server: HomeServer) -> None:
    """Files arrive, are compressed, replaced and compressed again while `verify` reads them."""
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        paths = [server.drop(f"{n}.safetensors", seed=n).path for n in range(6)]
        wait_until(lambda: server.lensd("verify").returncode == 0, "a ledger is there")
        newer: set[str] = set()
        for n, path in enumerate(paths):
            made = server.make(path.name, seed=100 + n).path
            newer.add(Seen.of(made).sha256)
            server.move_in(made)
            done = server.lensd("verify")
            assert done.returncode == 0, done.stdout
        wait_until(lambda: not newer & {Seen.of(path).sha256 for path in paths}, "all are replaced")
        wait_until(lambda: not _unfinished(server), "all is noted")
        done = server.lensd("verify")
        assert done.returncode == 0, done.stdout
        assert "6 outputs ok" in done.stdout


def _unfinished(server: HomeServer) -> list[Any]:
    status = server.status()
    return [*status["running"], *status["queued"], *status["waiting"]]


@pytest.mark.slow
def test_a_copy_with_the_size_and_date_of_what_it_replaced(server: HomeServer) -> None:
    """As of two epochs of one training: no disk is at fault, and no row follows to such a copy."""
    server.configure(defaults={"mode": "int8"})
    paths = [server.drop(f"{n}.safetensors", seed=n).path for n in range(3)]
    for path in paths:
        os.utime(path, (1_700_000_000, 1_700_000_000))
    server.once()
    first, second, third = paths
    shutil.copy2(first, second)  # keeps the inode of the second
    moved = third.rename(server.loras / "moved.safetensors")
    shutil.copy2(first, moved)
    assert len({path.stat().st_size for path in (first, second, moved)}) == 1
    assert _verify(server, code=0)[str(second)]["output"]["state"] == "changed"
    hashes = json.loads(server.lensd("status", "--hashes", "--json").stdout)["hashes"]
    assert [row["path"] for row in hashes] == [str(first), str(third)]
    listed = server.lensd("restore", "--list").stdout
    assert f"{third}  " in listed
    assert str(moved) not in listed
