"""bench.report_pictures: the documentation's pictures of the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import report_pictures
from tests.support.browser import NoBrowser


@pytest.mark.slow
def test_both_are_drawn(tmp_path: Path) -> None:
    """They are PNGs as wide as the page."""
    try:
        assert report_pictures.main(tmp_path) == 0
    except NoBrowser as missing:
        pytest.skip(str(missing))
    for path in (tmp_path / "report.png", tmp_path / "report-file.png"):
        head = path.read_bytes()[:24]
        assert head.startswith(b"\x89PNG")
        assert int.from_bytes(head[16:20]) == report_pictures.WIDTH
