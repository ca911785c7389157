"""The format of the log for lnav, read by the real lnav."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from pathlib import Path

import pytest

from lensd.logs.lnav import lnav_format
from lensd.logs.schema import log_schema
from tests.support.limits import PATIENCE
from tests.support.marks import needs_program

LINES = Path(__file__).parents[1] / "fixtures/before/log_lines.jsonl"


def test_each_field_of_the_log_is_a_column() -> None:
    """A new field of an event is one, too."""
    found = log_schema()
    events = [found["$defs"][c["$ref"].rpartition("/")[2]] for c in found["oneOf"]]
    fields = {name for event in events for name in event["properties"]}
    columns = lnav_format()["lensd_log"]["value"]
    assert set(columns) == fields - {"timestamp", "level", "schema"}
    assert columns["bytes_in"]["kind"] == "integer"
    assert columns["rank_in"]["kind"] == columns["seconds"]["kind"] == "json"


class Lnav:
    """lnav with the format installed in a home of its own."""

    def __init__(self, folder: Path) -> None:
        self._environment = {**os.environ, "HOME": str(folder)}
        self._environment.pop("XDG_CONFIG_HOME", None)
        self._folder = folder
        file = folder / "lensd_log.json"
        file.write_text(json.dumps(lnav_format()))
        assert "installed" in self.run("-i", str(file))
        assert "error" not in self.run("-C")

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            ["lnav", *arguments],
            capture_output=True,
            text=True,
            check=True,
            env=self._environment,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            timeout=PATIENCE,
        )
        assert not done.stderr, done.stderr
        return done.stdout

    def query(self, sql: str) -> list[dict[str, str]]:
        commands = ("-n", "-c", f";{sql}", "-c", ":write-csv-to -")
        return list(csv.DictReader(self.run(*commands, str(LINES)).splitlines()))


@pytest.fixture
def lnav(tmp_path: Path) -> Lnav:
    return Lnav(tmp_path)


@needs_program("lnav")
def test_lnav_reads_every_line(lnav: Lnav) -> None:
    """By event, as many as are in the file."""
    lines = [json.loads(text) for text in LINES.read_text().splitlines()]
    rows = lnav.query("SELECT event, count(*) AS n FROM lensd_log GROUP BY event")
    counts = {row["event"]: int(row["n"]) for row in rows}
    assert sum(counts.values()) == len(lines)
    assert counts["file.compressed"] == sum(li["event"] == "file.compressed" for li in lines)


@needs_program("lnav")
def test_lnav_knows_levels_and_numbers(lnav: Lnav) -> None:
    """Errors are errors; bytes can be added up."""
    lines = [json.loads(text) for text in LINES.read_text().splitlines()]
    (row,) = lnav.query("SELECT sum(bytes_in) AS n FROM lensd_log WHERE event = 'file.compressed'")
    compressed = [line for line in lines if line["event"] == "file.compressed"]
    assert int(row["n"]) == sum(line["bytes_in"] for line in compressed)
    (row,) = lnav.query("SELECT count(*) AS n FROM lensd_log WHERE log_level = 'error'")
    assert int(row["n"]) == sum(line["level"] == "error" for line in lines)


@needs_program("lnav")
def test_lnav_shows_event_path_and_message(lnav: Lnav) -> None:
    """One line each; the other fields are in its details."""
    shown = lnav.run("-n", str(LINES))
    line = next(json.loads(t) for t in LINES.read_text().splitlines() if '"file.skipped"' in t)
    assert f"{line['event']}" in shown
    assert f"{line['path']} {line['reason']}: {line['message'][:40]}" in shown
