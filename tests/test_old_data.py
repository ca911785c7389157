"""Data of an earlier version: read, verified, restored and continued by this one.

Its ledger, log, configuration, archive and outputs are in tests/fixtures/before; the README there
says how they were made.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import before, outputs
from tests.support.before import LEDGER
from tests.support.home_server import HomeServer, Seen, wait_until
from tests.support.running import Line, parse_line, whole_lines

LINES = (before.FOLDER / "log_lines.jsonl").read_text().splitlines()
OUTCOMES = {
    "analyzed": 1, "baseline": 1, "compressed": 7, "failed": 1, "kept": 1, "replaced": 2,
    "restored": 1, "skipped": 1, "superseded": 1,
}  # fmt: skip
OUTPUTS = [
    "int8/float32.safetensors", "loras/style.safetensors", "loras/styles/ink.safetensors",
    "loras/styles/new name.safetensors", "loras/twice.safetensors", "rank/peft.safetensors",
    "rank/there before.safetensors",
]  # fmt: skip


class Old(HomeServer):
    """A home server of the fixture, and the lines that this version adds to its log."""

    def __init__(self, name: str, top: Path, *, checkpointed: bool) -> None:
        before.unpack(name, top, checkpointed=checkpointed)
        super().__init__(top, new=False)
        self.log = top / "lensd.log"
        self.originals: dict[str, str] = before.MANIFEST["originals"][name]
        self._read = len(self.log.read_text())

    def new_lines(self) -> list[Line]:
        text = self.log.read_text()[self._read :]
        return [parse_line(line) for line in whole_lines(text)]

    def ends(self) -> list[tuple[str, str]]:
        """New events that end or change the processing of a file, with its relative path."""
        passing = ("file.detected", "file.settled")
        return sorted(
            (line["event"], str(Path(line["path"]).relative_to(self.top)))
            for line in self.new_lines()
            if line["event"].startswith("file.") and line["event"] not in passing
        )

    def json(self, verb: str) -> Any:
        """The document that a command prints; it is valid under its schema."""
        done = self.lensd(verb, "--json")
        assert (0, "") == (done.returncode, done.stderr)
        return json.loads(done.stdout)

    def report_from_log(self) -> Any:
        """`lensd report --json --log`, which takes no configuration."""
        command = [sys.executable, "-m", "lensd", "report", "--json", "--log", str(self.log)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        [document] = outputs.documents("report", done.stdout)
        return document


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Old]:
    """For commands that only read. The ledger has a write-ahead log, as a killed daemon left it."""
    old = Old("all", tmp_path_factory.mktemp("old") / "all", checkpointed=False)
    yield old
    assert [] == old.new_lines()


@pytest.mark.parametrize("text", LINES, ids=[json.loads(text)["event"] for text in LINES])
def test_a_line_of_its_log_is_valid(text: str) -> None:
    """One line of each kind that its own tests made the daemon write."""
    parse_line(text)


def test_its_whole_log_is_valid(unchanged: Old) -> None:
    for text in unchanged.log.read_text().splitlines():
        parse_line(text)


def test_its_configuration_is_accepted(unchanged: Old) -> None:
    """One with every key."""
    done = unchanged.lensd("check")
    assert 0 == done.returncode, done.stderr


def test_status(unchanged: Old) -> None:
    """The queue, what waits and why, what is paused, the problem, and the totals."""
    status = unchanged.json("status")
    loras = unchanged.loras
    assert str(loras / "half.safetensors") in [job["path"] for job in status["running"]]
    queued = {loras / "later/paused.safetensors", loras / "queued.safetensors"}
    assert queued == {Path(job["path"]) for job in status["queued"]}
    assert [str(loras / "arriving.safetensors")] == [file["path"] for file in status["waiting"]]
    assert [str(loras / "later")] == status["paused"]
    assert [str(loras / "broken.safetensors")] == [file["path"] for file in status["problems"]]
    assert OUTCOMES == status["totals"]["outcomes"]


def test_status_of_a_ledger_without_a_write_ahead_log(tmp_path: Path) -> None:
    old = Old("all", tmp_path / "all", checkpointed=True)
    assert [LEDGER] == [path.name for path in old.state.glob(f"{LEDGER}*")]
    assert OUTCOMES == old.json("status")["totals"]["outcomes"]


def test_report_from_the_ledger(unchanged: Old) -> None:
    """The outcomes, and the bytes of what lies in the folders and in the archive."""
    report = unchanged.json("report")
    assert OUTCOMES == report["outcomes"]
    outputs = [unchanged.top / name for name in OUTPUTS]
    assert sum(path.stat().st_size for path in outputs) == report["bytes"]["after"]
    assert OUTPUTS == sorted(
        str(Path(row["path"]).relative_to(unchanged.top)) for row in report["hashes"]
    )


def test_report_from_its_log_says_the_same(unchanged: Old) -> None:
    """Of the compressed files: the sha256 of each original and output, and the bytes by mode."""
    of_ledger, of_log = unchanged.json("report"), unchanged.report_from_log()
    assert _hashes(of_ledger) <= _hashes(of_log)
    assert {row["mode"] for row in of_ledger["ratios"]} == {row["mode"] for row in of_log["ratios"]}


def _hashes(report: dict[str, Any]) -> set[tuple[str, str]]:
    return {(row["original"], row["output"]) for row in report["hashes"]}


def test_verify(unchanged: Old) -> None:
    """Every original and output is what the ledger says."""
    document = unchanged.json("verify")
    assert 0 == document["faults"]
    found = Counter(file["kind"] for file in document["files"])
    assert {"original": len(OUTPUTS) + 1, "output": len(OUTPUTS)} == found  # one in .versions
    assert {"ok"} == {file["state"] for file in document["files"]}


@pytest.fixture
def old(tmp_path: Path) -> Old:
    """With everything, to be changed."""
    return Old("all", tmp_path / "all", checkpointed=False)


def test_restore(old: Old) -> None:
    """Bit-exactly: a file, one that was moved, and an older version."""
    names = ["style", "styles/new name", "twice"]
    style, moved, twice = (old.loras / f"{name}.safetensors" for name in names)
    older = old.originals["loras/twice.safetensors older"]
    for arguments in ((style, moved), (twice, "--version", older)):
        done = old.lensd("restore", *arguments)
        assert 0 == done.returncode, done.stderr
    assert old.originals["loras/style.safetensors"] == _sha256(style)
    assert old.originals["loras/old name.safetensors"] == _sha256(moved)
    assert older == _sha256(twice)
    assert not old.archived(style).exists()


def test_a_daemon_goes_on(old: Old) -> None:
    """It finishes the half-done job and the queue, and leaves everything else as it is.

    A paused file stays in the queue, and one whose download is unfinished waits.
    """
    before_it = _files(old)
    half, queued = (old.loras / f"{name}.safetensors" for name in ("half", "queued"))
    with old.daemon(forked=True) as daemon:
        done = [("file.compressed", f"loras/{path.name}") for path in (half, queued)]
        wait_until(lambda: set(done) <= set(old.ends()), "both are compressed")
        wait_until(lambda: [] != old.status()["waiting"], "the unfinished download is seen")
        assert 0 == daemon.stop()
    assert done == old.ends()
    changed = {name for name, seen in _files(old).items() if before_it.get(name) != seen}
    assert {"loras/half.safetensors", "loras/queued.safetensors",
            "archive/loras/queued.safetensors"} == changed  # fmt: skip
    for path in (half, queued):
        assert old.originals[f"loras/{path.name}"] == _sha256(old.archived(path))
        assert path.stat().st_size < old.archived(path).stat().st_size
    assert [] == old.temporaries()
    status = old.status()
    assert [str(old.loras / "later/paused.safetensors")] == [
        job["path"] for job in status["queued"]
    ]
    assert [str(old.loras / "arriving.safetensors")] == [file["path"] for file in status["waiting"]]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["exchanged", "published"])
def test_once_finishes_a_killed_job(tmp_path: Path, name: str) -> None:
    """Killed after the exchange of names, or when the original was to be unlinked.

    The output stays as it is, the original is in the archive alone, and the lost line is written.
    """
    old = Old(name, tmp_path / name, checkpointed=True)
    half = old.loras / "half.safetensors"
    output = Seen.of(half)
    done = old.lensd("once", "--yes")
    assert 0 == done.returncode, done.stderr
    [line] = [line for line in old.new_lines() if line.get("path") == str(half)]
    assert ("file.compressed", True) == (line["event"], line["recovered"])
    assert output == Seen.of(half)
    assert old.originals["loras/half.safetensors"] == _sha256(old.archived(half))
    assert 1 == old.archived(half).stat().st_nlink
    assert [] == old.temporaries()
    compressed = ["half", "queued", "there before"]
    assert compressed == [
        Path(path).stem for event, path in old.ends() if event == "file.compressed"
    ]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _files(old: Old) -> dict[str, Seen]:
    """Every LoRA in the folders and in the archive."""
    return {str(p.relative_to(old.top)): Seen.of(p) for p in old.top.rglob("*.safetensors")}
