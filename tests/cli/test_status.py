"""`lensd status` with and without a daemon."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.home_server import HomeServer, Seen


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> HomeServer:
    """After one run: a compressed file, a refused one, and one that failed."""
    server = HomeServer(tmp_path_factory.mktemp("server"))
    server.drop("good.safetensors", seed=1)
    (server.loras / "page.safetensors").write_text("<html>not found</html>")
    bad = server.drop("bad.safetensors", seed=1).path
    bad.write_bytes(bad.read_bytes()[:-2] + b"\xff\x7f")
    server.once(code=1)
    return server


def test_the_document(server: HomeServer) -> None:
    """Folders, nothing under way, the problem with reason and remedy, and the totals in bytes."""
    report = server.status()
    assert report["daemon"] is None
    assert report["watch"] == [{"name": "loras", "path": str(server.loras), "mode": "ultra"}]
    assert [report["running"], report["queued"], report["waiting"]] == [[], [], []]
    [problem] = report["problems"]
    assert problem["path"] == str(server.loras / "bad.safetensors")
    assert problem["reason"] == "not_finite"
    original, output = (
        (root / "good.safetensors").stat().st_size
        for root in (server.archive / "loras", server.loras)
    )
    totals = report["totals"]
    assert totals["saved_in_folders"] == original - output
    assert totals["held_by_archive"] == original
    assert totals["net"] == -output
    assert totals["outcomes"]["compressed"] == 1
    assert totals["outcomes"]["skipped"] == 1


def test_the_text_says_the_same(server: HomeServer) -> None:
    """For a person: the problem with its remedy, the totals, nothing on stderr."""
    done = server.lensd("status")
    assert (done.returncode, done.stderr) == (0, "")
    assert "daemon: not running" in done.stdout
    assert f"problems: {server.loras}/bad.safetensors: " in done.stdout
    assert "1 compressed" in done.stdout
    assert "held by the archive" in done.stdout


def test_hashes(server: HomeServer) -> None:
    """The sha256 of every original and of its output, as they are on the disk."""
    path = server.loras / "good.safetensors"
    original, output = Seen.of(server.archived(path)).sha256, Seen.of(path).sha256
    done = server.lensd("status", "--hashes")
    assert f"{original}  {output}  {path}" in done.stdout


def test_before_the_first_run(tmp_path: Path) -> None:
    """No ledger yet: an error with its code and remedy, and none is made."""
    fresh = HomeServer(tmp_path)
    done = fresh.lensd("status")
    assert (done.returncode, done.stdout) == (5, "")
    assert "lensd has not run with this configuration" in done.stderr
    assert not fresh.state.exists()
