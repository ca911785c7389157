"""docs/monitoring.md: its recipes are run on a real log, its expressions name real metrics."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from lensd.metrics.exposition import Histogram
from tests.docs import markdown
from tests.docs.rendering import REPOSITORY
from tests.support import prometheus
from tests.support.home_server import HomeServer, Seen, wait_until
from tests.support.limits import PATIENCE
from tests.support.marks import needs_program
from tests.support.running import Line, parse_line, whole_lines

PAGE = (REPOSITORY / "docs/monitoring.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"<!-- recipe: ([a-z ]+) -->\n```sh\n(.*?)```", PAGE, re.DOTALL))
THEIRS = {"node_textfile_mtime_seconds"}  # node_exporter's own

pytestmark = needs_program("jq")


class Logged(NamedTuple):
    """A real daemon's log, `lensd.log` in a folder, and what is in it."""

    server: HomeServer
    log: Path

    @property
    def lines(self) -> list[Line]:
        return [parse_line(line) for line in whole_lines(self.log.read_text())]

    def of(self, event: str) -> list[Line]:
        return [line for line in self.lines if line["event"] == event]

    def has(self, event: str, path: Path) -> bool:
        return any(line["path"] == str(path) for line in self.of(event))

    def run(
        self, recipe: str, folder: Path | None = None, *, instead: tuple[str, str] = ("", "")
    ) -> list[list[str]]:
        """The cells of what a recipe prints, as a person would run it; with one text for another.

        `instead`: what has to be there, and what is put in its place.
        """
        assert instead[0] in RECIPES[recipe]
        script = RECIPES[recipe].replace(*instead) if instead[0] else RECIPES[recipe]
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=folder or self.log.parent,
            capture_output=True, text=True, check=False, timeout=PATIENCE,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        return [line.split("\t") for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logged]:
    """Two files that were compressed, one of them renamed then; two refused, one that failed.

    The daemon runs on.
    """
    server = HomeServer(tmp_path_factory.mktemp("server"))
    found = Logged(server, server.top / "lensd.log")
    server.configure(log={"path": str(found.log)})
    with server.daemon() as daemon:
        wait_until(lambda: found.log.exists() and bool(found.of("daemon.ready")), "it is ready")
        first = server.drop("first.safetensors", seed=1).path
        old = server.drop("old.safetensors", seed=2, rank=8).path
        for name in ("page", "other"):
            (server.loras / f"{name}.safetensors").write_text("<html>not found</html>")
        made = server.make("bad.safetensors", seed=3).path
        made.write_bytes(made.read_bytes()[:-2] + b"\xff\x7f")
        bad = server.move_in(made)
        wait_until(lambda: found.has("file.compressed", first), "first")
        wait_until(lambda: found.has("file.compressed", old), "old")
        wait_until(lambda: found.has("file.failed", bad), "bad")
        wait_until(lambda: len(found.of("file.skipped")) == 2, "the pages")
        new = old.rename(server.loras / "new.safetensors")
        wait_until(lambda: found.has("file.moved", new), "new")
        yield found
        assert daemon.stop() == 0


def test_saved_by_day(logged: Logged) -> None:
    """Day, files and bytes; the sum is what the ledger says."""
    rows = logged.run("saved by day")
    days = {line["timestamp"][:10] for line in logged.of("file.compressed")}
    assert [row[0] for row in rows] == sorted(days)
    assert sum(int(row[1]) for row in rows) == 2
    saved = logged.server.status()["totals"]["saved_in_folders"]
    assert sum(int(row[2]) for row in rows) == saved > 0


def test_slowest(logged: Logged) -> None:
    """The slowest first."""
    rows = logged.run("slowest")
    work = {
        line["path"]: round(line["seconds"]["total"] - line["seconds"]["wait"], 3)
        for line in logged.of("file.compressed")
    }
    assert [row[2] for row in rows] == sorted(work, key=lambda path: -work[path])
    assert {row[2]: float(row[0]) for row in rows} == pytest.approx(work, abs=0.0011)


def test_reasons(logged: Logged) -> None:
    """The most frequent first."""
    assert logged.run("reasons") == [
        ["2", "file.skipped", "not_safetensors"],
        ["1", "file.failed", "not_finite"],
    ]


def test_story(logged: Logged) -> None:
    """From the first event to the rename; here of the file that has another name by now."""
    rows = logged.run("story", instead=("style.safetensors", "old.safetensors"))
    events = ["file.detected", "file.settled", "file.compressed", "file.moved"]
    assert [row[1] for row in rows] == events
    assert [os.path.basename(row[2]) for row in rows] == [
        *["old.safetensors"] * 3,
        "new.safetensors",
    ]


def test_hashes(logged: Logged) -> None:
    """Those of the files on the disk, as `lensd status --hashes` has them."""
    rows = {os.path.basename(row[2]): row[:2] for row in logged.run("hashes")}
    listed = json.loads(logged.server.lensd("status", "--hashes", "--json").stdout)["hashes"]
    by_original = {row["original"]: row for row in listed}
    for row in rows.values():
        found = by_original[row[0]]
        assert row[1] == found["output"]
    assert rows["first.safetensors"][1] == Seen.of(logged.server.loras / "first.safetensors").sha256


def test_live(logged: Logged) -> None:
    """Lines come while the daemon writes them."""
    with subprocess.Popen(
        ["bash", "-c", RECIPES["live"]],
        cwd=logged.log.parent, stdout=subprocess.PIPE, text=True, start_new_session=True,
    ) as following:  # fmt: skip
        try:
            assert following.stdout is not None
            wait_until(lambda: _follows(following.pid), "tail is there")
            path = logged.server.drop("live.safetensors", seed=4).path
            rows = [following.stdout.readline().rstrip("\n").split("\t") for _ in range(3)]
        finally:
            os.killpg(following.pid, 15)
    assert [row[1] for row in rows] == ["file.detected", "file.settled", "file.compressed"]
    assert {row[2] for row in rows} == {str(path)}


def _follows(group: int) -> bool:
    """Whether a `tail` of a process group waits for its file."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            name = (folder / "comm").read_text().strip()
            waits = "inotify" in "".join(os.readlink(fd) for fd in (folder / "fd").iterdir())
        except OSError:
            continue
        if int(fields[2]) == group and name == "tail" and waits:
            return True
    return False


def test_journal(logged: Logged, tmp_path: Path) -> None:
    """What systemd says between the lines is left out, and so is other text."""
    lines = logged.log.read_text().splitlines()
    mixed = ["Starting lensd.service...", *lines[:3], "{half", '"text"', "Started.", *lines[3:]]
    (tmp_path / "journal").write_text("\n".join(mixed) + "\n")
    logged.run("journal", tmp_path, instead=("journalctl -u lensd -o cat", "cat journal"))
    found = (tmp_path / "lensd.log").read_text().splitlines()
    assert [json.loads(line) for line in found] == [json.loads(line) for line in lines]


def test_rotated(logged: Logged, tmp_path: Path) -> None:
    """All files of the log, in the order of time."""
    lines = logged.log.read_text().splitlines(keepends=True)
    for age, (name, part) in enumerate({"lensd.log": lines[3:], "lensd.log.1": lines[:3]}.items()):
        (tmp_path / name).write_text("".join(part))
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    events = [row[0] for row in logged.run("rotated", tmp_path)]
    assert events == [json.loads(line)["event"] for line in lines]


def test_every_recipe_is_run() -> None:
    """None was added without a test; none is written in another form."""
    run = {"saved by day", "slowest", "reasons", "story", "hashes", "live", "journal", "rotated"}
    assert run == set(RECIPES)
    assert PAGE.count("jq -") - PAGE.count("`jq -") == len(run)


def _yaml_blocks() -> list[Any]:
    return [yaml.safe_load(b.text) for b in markdown.blocks(PAGE) if b.language == "yaml"]


def _expressions() -> Iterator[str]:
    [groups] = [block["groups"] for block in _yaml_blocks() if "groups" in block]
    for group in groups:
        for rule in group["rules"]:
            assert set(rule) <= {"alert", "expr", "for", "annotations"}
            yield rule["expr"]
    rows = re.findall(r"^\| [^|`]+ \| `(.+)` \|$", PAGE, re.MULTILINE)
    assert len(rows) == 4
    yield from rows


def test_expressions_name_metrics_and_labels_that_there_are() -> None:
    """In the rules for alerts and in the table of questions."""
    known: dict[str, set[str]] = {name: {"file"} for name in THEIRS}
    for family in prometheus.families():
        if isinstance(family, Histogram):
            for end in ("_bucket", "_sum", "_count"):
                known[f"{family.name}{end}"] = {family.label, "le"}
        else:
            known[family.name] = set(family.labels)
    for expression in _expressions():
        names = re.findall(r"\b((?:lensd|node)_\w+)(?:\{([^}]*)\})?", expression)
        assert names, expression
        for name, inside in names:
            assert name in known, expression
            assert set(re.findall(r"(\w+)=~?\"", inside)) <= known[name], expression


def test_the_configuration_in_it_is_one() -> None:
    """The key and a value that it takes."""
    [metrics] = [block["metrics"] for block in _yaml_blocks() if "metrics" in block]
    assert metrics["textfile"].endswith(".prom")
