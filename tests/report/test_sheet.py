"""CSV whose cells are never formulas."""

from __future__ import annotations

import csv
import datetime as dt
import io

import pytest

from lensd.report import sheet
from lensd.report.record import Measures, Record


def rows(*paths: str) -> list[dict[str, str]]:
    found = [
        Record(path=p, watch="loras", job_id="1", outcome="compressed", when=0.0,
               measures=Measures(bytes_in=30, bytes_out=10, delta_error=0.07), message="a\nb")
        for p in paths
    ]  # fmt: skip
    file = io.StringIO()
    sheet.write(found, file, dt.UTC)
    return list(csv.DictReader(io.StringIO(file.getvalue())))


def test_a_header_and_a_row_a_file() -> None:
    """Numbers are plain, missing values are empty, line breaks stay inside their cell."""
    [row] = rows("/srv/loras/a,b.safetensors")
    assert tuple(row) == sheet.COLUMNS
    assert row["path"] == "/srv/loras/a,b.safetensors"
    assert (row["bytes_in"], row["ratio"], row["delta_error"]) == ("30", "3.0", "0.07")
    assert (row["family"], row["seconds"], row["message"]) == ("", "", "a\nb")
    assert row["when"] == "1970-01-01T00:00:00+00:00"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\N{FULLWIDTH EQUALS SIGN}"])
def test_no_cell_is_a_formula(start: str) -> None:
    """A cell that a spreadsheet would run starts with an apostrophe or an escape."""
    [row] = rows(f"{start}cmd|'/c calc'!A1")
    assert row["path"].startswith(("'", "\\"))
