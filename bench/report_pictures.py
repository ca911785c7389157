"""Draw `docs/pictures/report*.png`: the page of `lensd report` in Chromium.

Run it from the top of the tree with `python -m bench.report_pictures`. The log is generated with
the blocks, ranks and sizes of real models (tests/support/many_files.py).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support import many_files
from tests.support.browser import Browser, chromium

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
FILES = 640
WIDTH = 1200
TOP = "return document.querySelector(arguments[0]).getBoundingClientRect().top + scrollY"


def main(pictures: Path = PICTURES) -> int:
    with tempfile.TemporaryDirectory(prefix="lensd-bench-") as name:
        folder = Path(name)
        many_files.write_log(folder / "lensd.log", FILES, seed=3)
        command = [
            sys.executable,
            "-m",
            "lensd",
            "report",
            "--log",
            "lensd.log",
            "--html",
            "r.html",
        ]
        environment = {**os.environ, "TZ": "UTC"}
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
        with chromium(folder / "profile") as browser:
            browser.prefer("light")
            browser.open(folder / "r.html", width=WIDTH)
            shoot(browser, "header, main", until="#files", to=pictures / "report.png")
            browser.prefer("dark")
            end = "#chosen > p:last-child"
            shoot(browser, "#chosen", until=end, to=pictures / "report-file.png")
    print("report.png and report-file.png are drawn")
    return 0


def shoot(browser: Browser, start: str, *, until: str, to: Path) -> None:
    """Write a picture of the page from the top of one element to the top of another."""
    top, end = (browser.js(TOP, selector) for selector in (start, until))
    top = max(0, top - 40)
    clip = {"x": 0, "y": top, "width": WIDTH, "height": end - top, "scale": 1}
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_bytes(browser.picture(clip))


if __name__ == "__main__":
    sys.exit(main())
