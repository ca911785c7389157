"""What `lensd analyze` found -> an SVG: the spectrum, and the rank of each block."""

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

from lensd.logs.measures import Block, Detailed, Module
from lensd.text import visible

INK, SOFT, LINE = "#201e1b", "#625d55", "#e3ded4"
ACCENT, BAND, BEFORE = "#0b6b50", "#cfe5dc", "#cbc3b5"
ENERGY = 0.99
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # letters as letters: small, and found by a search
    "svg.hashsalt": "lensd",  # nothing that changes from run to run
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # a $ in a name is a $
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
}
# The address of a DTD, which matplotlib writes and no program needs.
_DOCTYPE = re.compile(r"<!DOCTYPE[^>]*>\s*")
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
# XML has no way to write these.
_NOT_XML = re.compile("[\ud800-\udfff\ufffe\uffff]")


def svg(path: str, found: Detailed) -> str:
    """The picture's text, of what lensd.engine.task.analyze_in_detail found in a file."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(10, 4.4), layout="constrained")
        spectrum, ranks = figure.subplots(1, 2, width_ratios=(2, 3))
        _draw_spectrum(spectrum, found)
        _draw_ranks(ranks, found.blocks)
        name = _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", visible(path))
        figure.suptitle(name, x=0.01, ha="left", fontsize=11, fontweight="bold")
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata=_NO_METADATA)
    return _DOCTYPE.sub("", text.getvalue())


def _draw_spectrum(axes: Axes, found: Detailed) -> None:
    """How much of the energy the first ranks hold: of the file, and of most modules."""
    ranks, energy = found.spectrum.ranks, found.spectrum.energy
    steps = np.arange(1, ranks[-1] + 1)
    low, high = np.quantile(_cumulated(found.details, len(steps)), (0.1, 0.9), axis=0)
    axes.fill_between(steps, low, high, color=BAND, linewidth=0, label="8 of 10 modules")
    axes.plot(ranks, energy, color=ACCENT, marker="o", markersize=3, label="the file")
    axes.axhline(ENERGY, color=SOFT, linestyle="--", linewidth=0.8)
    axes.annotate(f"{100 * ENERGY:.0f} %", (0, ENERGY), (3, -3), ("axes fraction", "data"),
                  "offset points", va="top", color=SOFT, fontsize=8)  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xlim(1, max(2, ranks[-1]))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
    axes.set_ylim(0, 1.02)
    axes.grid(visible=True, color=LINE, linewidth=0.6)
    axes.set_title("Energy by rank")
    axes.set_xlabel("first ranks of every module")
    axes.legend(loc="lower right", frameon=False)


def _cumulated(details: Sequence[Module], length: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Share of the energy by rank [modules, length]; a module of zeros has none to share."""
    rows = []
    for detail in details:
        squares = np.zeros(length)
        squares[: len(detail.spectrum)] = np.square(detail.spectrum)
        if (total := squares.sum()) > 0:
            rows.append(squares.cumsum() / total)
    return np.array(rows or [np.ones(length)])


def _draw_ranks(axes: Axes, blocks: dict[str, list[Block]]) -> None:
    """Median rank before and after, with the names of the model's parts below."""
    rows = [row for found in blocks.values() for row in found]
    places = range(len(rows))
    axes.bar(places, [before for _, _, before, _ in rows], 0.85, color=BEFORE, label="before")
    axes.bar(places, [after for *_, after in rows], 0.45, color=ACCENT, label="after ultra")
    ends = list(accumulate(map(len, blocks.values())))
    middles = [end - (len(found) + 1) / 2 for end, found in zip(ends, blocks.values(), strict=True)]
    names = [part.removesuffix("_blocks").removesuffix("_block") for part in blocks]
    axes.set_xticks(middles, names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.7, len(rows) - 0.3)
    axes.grid(visible=True, axis="y", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_title("Median rank of each block")
    axes.legend(loc="upper right", bbox_to_anchor=(1, 1.12), ncols=2, frameon=False)
