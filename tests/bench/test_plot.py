"""bench.plot: the picture shows every file, every row and its seconds."""

from __future__ import annotations

import json
import re
from pathlib import Path


def test_the_picture_has_all_numbers(tmp_path: Path) -> None:
    """They are text, which can be searched; the bytes are the same each time."""
    from bench import plot  # with matplotlib, which takes a second

    seconds = {row: [1.25 * at, 2.5 * at, 9.0] for at, row in enumerate(plot.ROWS, 1)}
    files = {name: {"bytes": 151_000_000, "seconds": seconds} for name in ("SD 1.5", "FLUX")}
    results = tmp_path / "engine.json"
    results.write_text(json.dumps({"machine": "2 cores of a test", "files": files}))
    pictures = [tmp_path / "a" / "1.svg", tmp_path / "a" / "2.svg"]
    for picture in pictures:
        plot.main(results, picture)
    text = pictures[0].read_text()
    assert text == pictures[1].read_text()
    shown = re.findall(r">([^<>]+)</text>", text)
    labels = {label for label, _ in plot.ROWS.values()}
    assert labels | {"SD 1.5", "FLUX", "151 MB", "2 cores of a test"} <= set(shown)
    for at in range(1, 4):
        assert shown.count(f"{2.5 * at:.3g}") == 2
