"""bench.report_pictures and bench.web_pictures: the documentation's pictures of both pages."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from bench import report_pictures, web_pictures
from tests.support.browser import NoBrowser


@pytest.mark.slow
@pytest.mark.parametrize(("bench", "name"), [(report_pictures, "report"), (web_pictures, "web")])
def test_all_are_drawn(tmp_path: Path, bench: ModuleType, name: str) -> None:
    """They are PNGs as wide as the page, and as two phones."""
    try:
        assert bench.main(tmp_path) == 0
    except NoBrowser as missing:
        pytest.skip(str(missing))
    phones = 2 * report_pictures.PHONE
    widths = {"": bench.WIDTH, "-dark": bench.WIDTH, "-file": bench.WIDTH, "-phone": phones}
    for kind, width in widths.items():
        head = (tmp_path / f"{name}{kind}.png").read_bytes()[:24]
        assert head.startswith(b"\x89PNG")
        assert int.from_bytes(head[16:20]) == width
