"""Draw `docs/pictures/report*.png`: the page of `lensd report` in Chromium, also as on a phone.

Run it from the top of the tree with `python -m bench.report_pictures`. The log is generated with
the blocks, ranks and sizes of real models (tests/support/many_files.py).
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from tests.support import many_files
from tests.support.browser import Browser, chromium

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
FILES = 640
WIDTH = 1280
PHONE = 390  # pixels
PHONE_HEIGHT = 1500
COLOURS = 128  # of a picture: a third of the bytes, and no difference to see
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
            for scheme, kind in (("light", ""), ("dark", "-dark")):
                browser.prefer(scheme)
                browser.open(folder / "r.html", width=WIDTH)
                to = pictures / f"report{kind}.png"
                shoot(browser, "header, main", until="#files", to=to)
            browser.js("document.querySelector('#rows > tr:has(.much) button').click()")
            end = "tr.detail + tr + tr"
            shoot(browser, "tr[aria-current]", until=end, to=pictures / "report-file.png")
            shoot_phone(browser, folder / "r.html", to=pictures / "report-phone.png")
    print("report.png, report-dark.png, report-file.png and report-phone.png are drawn")
    return 0


def shoot_phone(browser: Browser, page: Path, *, to: Path) -> None:
    """The begin of the page in light and dark, side by side."""
    sides = []
    for scheme in ("light", "dark"):
        browser.prefer(scheme)
        browser.open(page, width=PHONE)
        sides.append(browser.picture(clip_of(0, PHONE_HEIGHT, PHONE)))
    save_beside(sides, to)


def clip_of(top: float, end: float, width: int) -> dict[str, float]:
    return {"x": 0, "y": top, "width": width, "height": end - top, "scale": 1}


def save_beside(pngs: Sequence[bytes], to: Path) -> None:
    """Write pictures of the same size side by side as one PNG with few colours."""
    images = [Image.open(io.BytesIO(png)) for png in pngs]
    whole = Image.new("RGB", (sum(i.width for i in images), images[0].height))
    for number, image in enumerate(images):
        whole.paste(image, (number * image.width, 0))
    to.parent.mkdir(parents=True, exist_ok=True)
    whole.quantize(COLOURS, dither=Image.Dither.NONE).save(to, optimize=True)


def shoot(browser: Browser, start: str, *, until: str, to: Path) -> None:
    """Write a picture of the page from the top of one element to the top of another."""
    top, end = (browser.js(TOP, selector) for selector in (start, until))
    top = max(0, top - 40)
    save_beside([browser.picture(clip_of(top, end, WIDTH))], to)


if __name__ == "__main__":
    sys.exit(main())
