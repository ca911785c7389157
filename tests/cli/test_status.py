"""`lensd status` with and without a daemon."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from lensd.report.documents import Hashes
from tests.support.home_server import HomeServer, Seen
from tests.support.limits import PATIENCE
from tests.support.terminal import AtTerminal


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> HomeServer:
    """A server after one run with a compressed file, a skipped one, and a failed one."""
    server = HomeServer(tmp_path_factory.mktemp("server"))
    server.drop("good.safetensors", seed=1)
    (server.loras / "page.safetensors").write_text("<html>not found</html>")
    bad = server.drop("bad.safetensors", seed=1).path
    bad.write_bytes(bad.read_bytes()[:-2] + b"\xff\x7f")
    server.once(code=1)
    return server


def test_the_document(server: HomeServer) -> None:
    """It has the folders, no jobs, the problem with its reason, and the totals in bytes."""
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


def test_the_text_has_the_same_facts(server: HomeServer) -> None:
    """stdout has the problem with its remedy and the totals; stderr has nothing."""
    done = server.lensd("status")
    assert (done.returncode, done.stderr) == (0, "")
    assert "daemon: not running" in done.stdout
    assert f"problems: {server.loras}/bad.safetensors: " in done.stdout
    assert "1 compressed" in done.stdout
    assert "held by the archive" in done.stdout


def test_hashes(server: HomeServer) -> None:
    """In a pipe: tab-separated sha256, AutoV2 and AutoV3 of the original and the output.

    The original's AutoV3 equals the hash that its trainer wrote into the file.
    """
    path = server.loras / "good.safetensors"
    original, output = Seen.of(server.archived(path)).sha256, Seen.of(path).sha256
    with safe_open(path, "pt") as file:
        model_hash = file.metadata()["sshs_model_hash"]
    own = _data_sha256(path)
    cells = [original, original[:10], model_hash[:12], output, output[:10], own[:12], str(path)]
    done = server.lensd("status", "--hashes")
    head, row = done.stdout.splitlines()
    assert (head.split("\t"), row.split("\t")) == (list(Hashes.__struct_fields__), cells)
    [document] = json.loads(server.lensd("status", "--hashes", "--json").stdout)["hashes"]
    assert document == dict(zip(Hashes.__struct_fields__, cells, strict=True))


def test_hashes_at_a_terminal(server: HomeServer) -> None:
    """A line for the path, one for the original and one for the output."""
    command = shlex.join([sys.executable, "-m", "lensd", "status", "--hashes", "-c"])
    done = subprocess.run(
        ["script", "-qec", f"{command} {server.config}", "/dev/null"],
        capture_output=True, text=True, check=True, timeout=PATIENCE,
    )  # fmt: skip
    name, original, output = done.stdout.splitlines()
    assert name == str(server.loras / "good.safetensors")
    assert original.startswith("  original  sha256 ")
    assert "AutoV3" in output


def test_hashes_that_the_ledger_does_not_know(server: HomeServer, tmp_path: Path) -> None:
    """They are computed from the files; without the original its AutoV3 is null or empty."""
    older = HomeServer(tmp_path)
    shutil.copytree(server.state, older.state)
    with contextlib.closing(sqlite3.connect(older.state / "ledger.sqlite3")) as db, db:
        db.execute("UPDATE files SET line = json_remove(line, '$.data_sha256_out')")
    [known], [row] = (
        json.loads(s.lensd("status", "--hashes", "--json").stdout)["hashes"]
        for s in (server, older)
    )
    assert row == known
    with contextlib.closing(sqlite3.connect(older.state / "ledger.sqlite3")) as db, db:
        db.execute("UPDATE files SET archive_path = CAST('/nowhere/gone' AS BLOB)")
    [row] = json.loads(older.lensd("status", "--hashes", "--json").stdout)["hashes"]
    assert row["original_autov3"] is None
    assert row["original_autov2"] == row["original"][:10]
    cells = older.lensd("status", "--hashes").stdout.splitlines()[1].split("\t")
    assert cells[2] == ""


def _data_sha256(path: Path) -> str:
    data = path.read_bytes()
    return hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()


def test_before_the_first_run(tmp_path: Path) -> None:
    """It says that lensd has not run yet, with code 0; the document is valid."""
    fresh = HomeServer(tmp_path)
    done = fresh.lensd("status")
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "daemon: not running")
    assert "lensd has not run with this configuration yet" in done.stderr
    assert fresh.status()["totals"]["outcomes"] == {}
    assert not fresh.state.exists()


def test_files_that_were_not_compressed_have_names(server: HomeServer) -> None:
    """The skipped one with its reason and remedy, in a pipe, in --json, and in `report`."""
    page = f"{server.loras}/page.safetensors"
    [left] = server.status()["uncompressed"]
    assert (left["path"], left["outcome"], left["reason"]) == (page, "skipped", "not_safetensors")
    assert f"not compressed: {page}: skipped (not_safetensors): the file looks like" in (
        server.lensd("status").stdout
    )
    [told] = json.loads(server.lensd("report", "--json").stdout)["uncompressed"]
    assert (told["path"], told["message"]) == (page, left["message"])
    assert f"{page}: not_safetensors\n" in server.lensd("report").stdout


@pytest.mark.slow
def test_a_terminal_shows_the_newest_files_first(tmp_path: Path) -> None:
    """Ten of each list, and how many more there are; `--all` shows these too."""
    server = HomeServer(tmp_path)
    for names in (map(str, range(10)), ("new",)):
        for name in names:
            (server.loras / f"{name}.safetensors").write_text("<html>not found</html>")
        server.once()
    command = [sys.executable, "-m", "lensd", "status", "-c", str(server.config)]
    with AtTerminal(command, tmp_path) as terminal:
        assert terminal.wait() == 0
    title = terminal.lines.index("skipped or kept: 11")
    assert terminal.lines[title + 1] == "  loras/new.safetensors"
    assert terminal.text.count(".safetensors\n") == 10
    assert terminal.lines[-1] == "  and 1 more; `lensd status --all` shows them"
    with AtTerminal([*command, "--all"], tmp_path) as terminal:
        assert terminal.wait() == 0
    assert terminal.text.count(".safetensors\n") == 11


@pytest.mark.slow
def test_only_the_present_version_of_a_file_is_listed(tmp_path: Path) -> None:
    """A file that failed and was then replaced by a good one is no problem any more."""
    server = HomeServer(tmp_path)
    path = server.drop("style.safetensors", seed=1).path
    path.write_bytes(path.read_bytes()[:-2] + b"\xff\x7f")
    server.once(code=1)
    assert [p["path"] for p in server.status()["problems"]] == [str(path)]
    server.drop("style.safetensors", seed=1)
    server.once()
    assert server.status()["problems"] == []


@pytest.mark.slow
def test_an_output_from_elsewhere_is_counted(tmp_path: Path) -> None:
    """A copy of an output has the outcome `output`, in `status` and in `report`."""
    server = HomeServer(tmp_path)
    path = server.drop("style.safetensors", seed=1).path
    server.once()
    copy = server.elsewhere / "copy.safetensors"
    shutil.copy2(path, copy)
    server.move_in(copy)
    server.once()
    assert server.status()["totals"]["outcomes"]["output"] == 1
    assert json.loads(server.lensd("report", "--json").stdout)["outcomes"]["output"] == 1


@pytest.mark.slow
def test_files_that_replaced_outputs(tmp_path: Path) -> None:
    """A text and a copy of another output: what the outputs saved is not saved any more.

    An output with another date still counts.
    """
    server = HomeServer(tmp_path)
    first, copied, text = (server.drop(f"{n}.safetensors", seed=n).path for n in range(3))
    server.once()
    original, output = server.archived(first).stat().st_size, first.stat().st_size
    shutil.copyfile(first, copied)
    text.write_text("something else")
    os.utime(first)
    server.once()
    totals = server.status()["totals"]
    assert totals["saved_in_folders"] == original - output
    assert totals["held_by_archive"] == 3 * original
    outcomes = totals["outcomes"]
    assert (outcomes["compressed"], outcomes["replaced"], outcomes["skipped"]) == (1, 2, 1)
    report = json.loads(server.lensd("report", "--json").stdout)
    sizes = report["bytes"]
    assert (sizes["before"], sizes["after"]) == (original, output)
    assert sizes["saved_in_folders"] == original - output
    restored = server.lensd("restore", first)
    assert restored.returncode == 0, restored.stderr
    assert server.status()["totals"]["saved_in_folders"] == 0


@pytest.mark.slow
def test_a_file_that_another_one_replaced_counts_no_more(tmp_path: Path) -> None:
    """The remedy of `skipped` is a new download: then `status` and `report` say nothing of it.

    So with a file that was left alone, and with one that was restored and then replaced.
    """
    server = HomeServer(tmp_path)
    page, left, back = (server.loras / f"{name}.safetensors" for name in ("page", "left", "back"))
    server.drop(left.name, seed=1)
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.baseline")
        daemon.wait_for_event("daemon.ready")
        server.drop(back.name, seed=2)
        daemon.wait_for_file(back, "file.compressed")
        page.write_text("<html>not found</html>")
        daemon.wait_for_file(page, "file.skipped")
        assert server.lensd("restore", back).returncode == 0
        assert {"baseline": 1, "restored": 1, "skipped": 1} == _files(server)
        for seed, path in enumerate((page, left, back), 3):
            path.unlink()
            server.move_in(server.make(path.name, seed=seed).path)
            daemon.wait_for_file(path, "file.compressed")
    assert {"compressed": 3} == _files(server)
    report = json.loads(server.lensd("report", "--json").stdout)
    shown = {o: n for o, n in report["outcomes"].items() if o not in ("superseded", "replaced")}
    assert ({"compressed": 3}, []) == (shown, report["reasons"])
    assert not {"skipped", "restored"} & set(server.lensd("report", "--csv").stdout.split(","))


def _files(server: HomeServer) -> dict[str, int]:
    outcomes = server.status()["totals"]["outcomes"]
    return {o: n for o, n in outcomes.items() if o not in ("superseded", "replaced")}
