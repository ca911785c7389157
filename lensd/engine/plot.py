"""Draw the results of `lensd analyze` as an SVG: the spectrum, and the rank of each block."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lensd.logs.measures import Blocks, Module, Spectrum
from lensd.text import visible

TEXT_COLOR, LABEL_COLOR, LINE_COLOR = "#201e1b", "#625d55", "#e3ded4"
ACCENT_COLOR, BAND_COLOR, BEFORE_COLOR = "#0b6b50", "#cfe5dc", "#cbc3b5"
ENERGY = 0.99
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # write text as text, not as curves: small, and a search finds it
    "svg.hashsalt": "lensd",  # the same bytes in every run
    "font.size": 9,
    "text.color": TEXT_COLOR,
    "text.parse_math": False,  # a $ in a file name is not a formula
    "axes.edgecolor": LINE_COLOR,
    "axes.labelcolor": LABEL_COLOR,
    "axes.titlecolor": TEXT_COLOR,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": LABEL_COLOR,
    "ytick.color": LABEL_COLOR,
}
# matplotlib writes the address of a DTD, which no program needs.
_DOCTYPE = re.compile(r"<!DOCTYPE[^>]*>\s*")
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
# Characters that XML cannot represent.
_NOT_XML = re.compile("[\ud800-\udfff\ufffe\uffff]")


def draw_svg(path: str, blocks: Blocks, spectrum: Spectrum, modules: Sequence[Module]) -> str:
    """Return the SVG for the measures of the file `path`."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(10, 4.4), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(2, 3))
        _draw_spectrum(left, spectrum, modules)
        _draw_ranks(right, blocks)
        name = _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", visible(path))
        figure.suptitle(name, x=0.01, ha="left", fontsize=11, fontweight="bold")
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata=_NO_METADATA)
    return _DOCTYPE.sub("", text.getvalue())


def _draw_spectrum(axes: Axes, spectrum: Spectrum, modules: Sequence[Module]) -> None:
    """Draw the share of energy in the first ranks: of the file, and of 8 of 10 modules."""
    ranks = spectrum.ranks
    steps = np.arange(1, ranks[-1] + 1)
    low, high = np.quantile(_cumulative_shares(modules, len(steps)), (0.1, 0.9), axis=0)
    axes.fill_between(steps, low, high, color=BAND_COLOR, linewidth=0, label="8 of 10 modules")
    axes.plot(
        ranks, spectrum.energy, color=ACCENT_COLOR, marker="o", markersize=3, label="the file"
    )
    axes.axhline(ENERGY, color=LABEL_COLOR, linestyle="--", linewidth=0.8)
    axes.annotate(f"{100 * ENERGY:.0f} %", (0, ENERGY), (3, -3), ("axes fraction", "data"),
                  "offset points", va="top", color=LABEL_COLOR, fontsize=8)  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xlim(1, max(2, ranks[-1]))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
    axes.set_ylim(0, 1.02)
    axes.grid(visible=True, color=LINE_COLOR, linewidth=0.6)
    axes.set_title("Energy by rank")
    axes.set_xlabel("first ranks of every module")
    axes.legend(loc="lower right", frameon=False)


def _cumulative_shares(
    modules: Sequence[Module], length: int
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the share of energy in the first ranks [modules, length], without modules of zeros."""
    rows = []
    for module in modules:
        squares = np.zeros(length)
        squares[: len(module.spectrum)] = np.square(module.spectrum)
        if (total := squares.sum()) > 0:
            rows.append(squares.cumsum() / total)
    return np.array(rows or [np.ones(length)])


def _draw_ranks(axes: Axes, blocks: Blocks) -> None:
    """Draw each block's median rank before and after, with the names of the model's parts below."""
    rows = [row for part_rows in blocks.values() for row in part_rows]
    x = range(len(rows))
    axes.bar(x, [before for _, _, before, _ in rows], 0.85, color=BEFORE_COLOR, label="before")
    axes.bar(x, [after for *_, after in rows], 0.45, color=ACCENT_COLOR, label="after ultra")
    lengths = list(map(len, blocks.values()))
    middles = [
        end - (length + 1) / 2 for end, length in zip(accumulate(lengths), lengths, strict=True)
    ]
    names = [part.removesuffix("_blocks").removesuffix("_block") for part in blocks]
    axes.set_xticks(middles, names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.7, len(rows) - 0.3)
    axes.grid(visible=True, axis="y", color=LINE_COLOR, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_title("Median rank of each block")
    axes.legend(loc="upper right", bbox_to_anchor=(1, 1.12), ncols=2, frameon=False)
