"""Draw `docs/pictures/speed.svg`, the seconds of lensd and its references.

Run it from the top of the tree with `python -m bench.plot`, after `python -m bench.engine`, which
writes `bench/results/engine.json`.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl

mpl.use("svg")

from matplotlib.figure import Figure

RESULTS = Path(__file__).with_name("results") / "engine.json"
PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "speed.svg"
# A label and a colour for each row. The colours also differ in brightness.
ROWS = {
    "copy": ("copy and sha256", "#bdbdbd"),
    "rank": ("lensd, rank", "#6baed6"),
    "ultra": ("lensd, ultra", "#08519c"),
    "qr": ("QR and SVD of the factors", "#fd8d3c"),
    "full": ("SVD of the full matrices", "#a63603"),
}
HEIGHT = 0.16  # of a bar; files are 1 apart


def draw(results: dict[str, Any]) -> Figure:
    """Draw horizontal bars on a logarithmic axis, with the first file on top."""
    files = results["files"]
    figure = Figure(figsize=(9, 1.2 + 0.9 * len(files)), layout="constrained")
    axes = figure.subplots()
    for number, (row, (label, colour)) in enumerate(ROWS.items()):
        heights = [at + (number - (len(ROWS) - 1) / 2) * HEIGHT for at in range(len(files))]
        seconds = [median(f["seconds"].get(row, [math.nan])) for f in files.values()]
        bars = axes.barh(heights, seconds, HEIGHT * 0.9, label=label, color=colour)
        axes.bar_label(bars, fmt="%.3g", padding=2, fontsize=7)
    labels = [f"{name}\n{found['bytes'] / 1e6:.0f} MB" for name, found in files.items()]
    axes.set_yticks(range(len(files)), labels)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("seconds, median")
    axes.set_title(results["machine"], fontsize=8)
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.12), ncols=3, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def main(results: Path = RESULTS, picture: Path = PICTURE) -> int:
    # Text as text, not as curves, and the same bytes in every run.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lensd"}):
        picture.parent.mkdir(parents=True, exist_ok=True)
        draw(json.loads(results.read_text(encoding="utf-8"))).savefig(
            picture, metadata={"Date": None, "Creator": None}
        )
    print(f"{picture.name} is drawn")
    return 0


if __name__ == "__main__":
    sys.exit(main())
