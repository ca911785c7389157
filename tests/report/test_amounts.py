"""Numbers as people read them."""

from __future__ import annotations

from lensd.report.amounts import outcomes


def test_outcomes_are_of_files() -> None:
    """By name, large numbers grouped; versions that gave way to others are no files."""
    counts = {"superseded": 3, "kept": 1, "compressed": 1200}
    assert outcomes(counts) == "1,200 compressed, 1 kept"
    assert outcomes({"superseded": 3}) == ""
