"""`lensd report`, from the ledger and from the log of the same run."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lensd.text import visible
from tests.support import many_files
from tests.support.home_server import HomeServer, Seen
from tests.support.outputs import validator

Run = Callable[..., "subprocess.CompletedProcess[str]"]
ESCAPES = "esc\x1b[31m.safetensors"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> HomeServer:
    """A server after one run with two compressed files, a skipped one, and a failed one."""
    server = HomeServer(tmp_path_factory.mktemp("server"))
    server.drop("good.safetensors", seed=1)
    server.drop(ESCAPES, seed=2)
    (server.loras / "page.safetensors").write_text("<html>not found</html>")
    bad = server.drop("bad.safetensors", seed=1).path
    bad.write_bytes(bad.read_bytes()[:-2] + b"\xff\x7f")
    done = server.lensd("once")
    assert done.returncode == 1, done.stderr
    (server.top / "lensd.log").write_text(done.stdout)
    return server


def document(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The printed document, after validation."""
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    validator("report").validate(found)
    return found


def test_the_totals_are_those_of_status(server: HomeServer) -> None:
    """Outcomes and bytes are equal; the report does not change the ledger."""
    before = Seen.of(server.state / "ledger.sqlite3")
    report = document(server.lensd("report", "--json"))
    totals = server.status()["totals"]
    assert report["outcomes"] == totals.pop("outcomes")
    assert report["bytes"].items() >= totals.items()
    assert Seen.of(server.state / "ledger.sqlite3") == before


def test_hashes_are_those_on_the_disk(server: HomeServer) -> None:
    """Those of the original and of the output, and their short forms."""
    report = document(server.lensd("report", "--json"))
    path = server.loras / "good.safetensors"
    [row] = [h for h in report["hashes"] if h["path"] == str(path)]
    assert row["original"] == Seen.of(server.archived(path)).sha256
    assert row["output"] == Seen.of(path).sha256
    assert row["output_autov2"] == row["output"][:10]


def test_the_log_alone_gives_the_same_report(server: HomeServer, lensd: Run) -> None:
    """Without configuration, the report has everything except what only a ledger knows."""
    log = (server.top / "lensd.log").read_text()
    done = lensd("report", "--json", "--log", "-", input=f"a stray line\n{log}")
    report, known = document(done), document(server.lensd("report", "--json"))
    assert report["source"]["foreign"] == 1
    assert report["unknown"]
    for section in ("bytes", "ratios", "delta_error", "reasons", "hashes"):
        assert report[section] == known[section], section
    assert [f["path"] for f in report["failures"]] == [f["path"] for f in known["failures"]]


def test_the_text(server: HomeServer) -> None:
    """In a pipe: totals, reasons, the failure with its remedy, and no escape sequence."""
    done = server.lensd("report")
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 compressed, 1 failed, 1 skipped" in done.stdout
    assert "held by the archive" in done.stdout
    assert f"{server.loras}/bad.safetensors: not_finite" in done.stdout
    assert "download or train it again" in done.stdout
    assert visible(ESCAPES) in done.stdout
    assert "\x1b" not in done.stdout


def test_csv(server: HomeServer) -> None:
    """One row per file, with its hashes."""
    done = server.lensd("report", "--csv")
    rows = {row["path"]: row for row in csv.DictReader(io.StringIO(done.stdout))}
    good = server.loras / "good.safetensors"
    assert rows[str(good)]["sha256_out"] == Seen.of(good).sha256
    assert rows[str(good)]["bytes_out"] == str(good.stat().st_size)
    assert rows[str(server.loras / "bad.safetensors")]["reason"] == "not_finite"
    assert len(rows) == 4


def test_a_period(lensd: Run, tmp_path: Path) -> None:
    """The report counts only the files that ended in the period."""
    many_files.write_log(tmp_path / "log", 50)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    june = [line for line in lines if line["timestamp"].startswith("2026-06")]
    env = {**os.environ, "TZ": "UTC"}
    arguments = ("--since", "2026-06-01", "--until", "2026-06-30", "--log", "log")
    report = document(lensd("report", "--json", *arguments, env=env))
    assert 0 < sum(report["outcomes"].values()) == len(june) < len(lines)
    text = lensd("report", "--since", "2020-01-01", "--until", "2020-01-02", "--log", "log").stdout
    assert text.startswith("no files in this period")


def test_a_page_does_not_overwrite_a_file(server: HomeServer, lensd: Run, tmp_path: Path) -> None:
    """Only with --force; no temporary file is left."""
    (tmp_path / "a.html").write_text("mine")
    log = str(server.top / "lensd.log")
    done = lensd("report", "--log", log, "--html", "a.html")
    assert done.returncode == 2
    assert "--force" in done.stderr
    assert (tmp_path / "a.html").read_text() == "mine"
    assert lensd("report", "--log", log, "--html", "a.html", "--force").returncode == 0
    assert (tmp_path / "a.html").read_text().startswith("<!doctype html>")
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--json", "--csv"], "exclude each other"),
        (["--since", "soon"], "is not a time"),
        (["--log", "none"], "does not exist"),
        (["/etc/hostname"], "after --log"),
        (["-c", "x", "--log", "/etc/hostname"], "give only one of them"),
    ],
)
def test_usage_errors(lensd: Run, arguments: list[str], message: str) -> None:
    """Exit code 2, with a remedy."""
    done = lensd("report", *arguments)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.slow
def test_100000_lines(lensd: Run, tmp_path: Path, tell: Any) -> None:
    """All are counted. The time is printed here and measured by bench.report."""
    once = many_files.write_log(tmp_path / "log", 1000, troubles=0.0).read_text().splitlines()
    with (tmp_path / "log").open("w") as file:
        for number in range(100):
            file.writelines(
                line.replace('"job_id": "', f'"job_id": "{number:x}-', 1) + "\n" for line in once
            )
    began = time.monotonic()
    done = lensd("report", "--log", "log")
    seconds = time.monotonic() - began
    assert "files: 1,000 compressed\n" in done.stdout
    tell(f"100,000 lines: {seconds:.2f} s")
