"""An archive on a disk of another system: each original comes back, whatever its name."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.support.archive_disks import ArchiveMounts
from tests.support.home_server import HomeServer, Seen
from tests.support.marks import needs_root

pytestmark = [pytest.mark.slow, pytest.mark.fault("names"), needs_root]

NAMES = (
    "Ink.safetensors", "ink.safetensors", "INK.safetensors", "a:b?.safetensors",
    "Sub/a.safetensors", "sub/a.safetensors", os.fsdecode(b"caf\xe9.safetensors"),
)  # fmt: skip


@pytest.fixture
def server(tmp_path: Path) -> HomeServer:
    return HomeServer(tmp_path)


@pytest.mark.parametrize("kind", ["exfat", "windows"])
@pytest.mark.parametrize("is_ledger_lost", [False, True])
def test_names_that_collide_or_are_refused(
    server: HomeServer, kind: str, *, is_ledger_lost: bool
) -> None:
    """Verified, and restored by their paths; also from a ledger that was rebuilt."""
    with ArchiveMounts() as mounts:
        disk = server.archive
        mounts.exfat(disk) if kind == "exfat" else mounts.windows(disk)
        before = {}
        for seed, name in enumerate(NAMES):
            before[name] = Seen.of(server.drop(name, seed=seed).path).sha256
        server.once()
        newer = server.drop("ink.safetensors", seed=99)
        older, before["ink.safetensors"] = before["ink.safetensors"], Seen.of(newer.path).sha256
        server.once()
        deleted = server.loras / "Sub/a.safetensors"
        deleted.unlink()
        if is_ledger_lost:
            shutil.rmtree(server.state)
            server.once()
        found = json.loads(server.lensd("verify", "--json").stdout)["files"]
        originals = [x["state"] for x in found if x["kind"] == "original"]
        assert originals == ["ok"] * (len(NAMES) + 1)
        done = server.lensd("restore", "--all")
        assert done.returncode == 0, done.stderr
        now = {name: Seen.of(server.loras / name).sha256 for name in NAMES}
        assert now == before
        server.once("--redo", newer.path)
        assert server.lensd("restore", "--version", older, newer.path).returncode == 0
        assert Seen.of(newer.path).sha256 == older


def test_an_original_that_an_older_lensd_moved_aside(server: HomeServer) -> None:
    """It took `ink` for a newer version of `Ink`, and the ledger names a path that is both."""
    with ArchiveMounts() as mounts:
        mounts.exfat(server.archive)
        names = ("Ink.safetensors", "ink.safetensors")
        before = {n: Seen.of(server.drop(n, seed=k).path).sha256 for k, n in enumerate(names)}
        server.once()
        folder = server.archive / "loras"
        [encoded] = folder.glob("%~*")
        natural = next(p for p in folder.iterdir() if not p.name.startswith("%~"))
        first, second = natural.name, next(n for n in names if n != natural.name)
        aside = server.archive / ".versions" / before[first] / "loras" / second
        aside.parent.mkdir(parents=True)
        natural.rename(aside)
        encoded.rename(folder / second)
        done = server.lensd("restore", server.loras / first)
        assert done.returncode == 0, done.stderr
        assert Seen.of(server.loras / first).sha256 == before[first]
