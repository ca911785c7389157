"""Draw the pictures of docs/quality.md: damage against bytes, and images at several settings."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl

mpl.use("svg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from bench.pictures_measure import Judge
from bench.pictures_tables import Results, by_setting, mean_of
from tests.engine import asking
from tests.support.delta import deltas

MARKERS = {"module": "o", "file": "s", "balanced": "^"}
COLOURS = {"float16": "#fd8d3c", "int8": "#08519c", "float8": "#6baed6"}
SHOWN = 8  # images in a row of the strip
DIFFERENCE = 5  # by how much the differences are amplified


class Shown(NamedTuple):
    """One row of the strip: its label and the parameters of lensd."""

    label: str
    parameters: dict[str, Any]


STRIP = (
    Shown("int8, all ranks", {"mode": "int8"}),
    *(
        Shown(f"int8, energy {energy:g}", {"mode": "ultra", "energy": energy})
        for energy in (0.999, 0.99, 0.98, 0.9)
    ),
)


def draw_damage(results: Results, picture: Path) -> None:
    """Draw the mean damage of each setting against its share of the original's bytes."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    lines: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for stored, rule, energy, rows in by_setting(results["settings"]):
        share = mean_of(row["bytes"] / row["bytes_in"] for row in rows)
        damage = mean_of(row["damage"] for row in rows)
        lines.setdefault((stored, rule if energy < 1 else ""), []).append((share, damage, energy))
    for (stored, rule), points in lines.items():
        shares, damages, energies = zip(*points, strict=True)
        axes.plot(
            shares,
            damages,
            color=COLOURS[stored],
            marker=MARKERS.get(rule, "*"),
            label=f"{stored}, {rule or 'all ranks'}",
        )
        if rule == "module":
            for at in zip(energies, shares, damages, strict=True):
                axes.annotate(f"{at[0]:g}", at[1:], (4, 4), textcoords="offset points", fontsize=7)
    axes.set(xscale="log", yscale="log")
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.yaxis.set_major_formatter(lambda damage, _: f"{damage:.1%}")
    axes.set_xticks([0.05, 0.1, 0.2, 0.5])
    axes.xaxis.set_minor_formatter("")
    axes.set_xlabel("bytes, share of the original")
    axes.set_ylabel("change of the images, share of the LoRA's effect")
    axes.legend(fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, picture)


def draw_strip(judge: Judge, picture: Path) -> None:
    """Draw images without, with, and with the compressed LoRA; beside them what differs."""
    rows = [("without the LoRA", judge.without), ("the LoRA", judge.full)]
    with tempfile.TemporaryDirectory(prefix="lensd-bench-") as folder:
        out = Path(folder, "out.safetensors")
        for label, parameters in STRIP:
            numbers = asking.compress(judge.training.path, out, min_saving=-1.0, **parameters)
            images = judge.images(deltas(out))
            smaller = numbers["bytes_in"] / numbers["bytes_out"]
            measured = f"{smaller:.1f} times smaller, damage {judge.damage(images):.1%}"
            rows.append((f"{label}\n{measured}", images))
    figure = Figure(figsize=(9, 0.62 * len(rows) + 0.4), layout="constrained")
    grid = figure.subplots(len(rows), 2, squeeze=False)
    for (label, images), (left, right) in zip(rows, grid, strict=True):
        _show(left, images[:SHOWN], (-1, 1))
        left.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=7)
        _show(right, DIFFERENCE * (images - judge.full)[:SHOWN], (-2, 2))
    grid[0][0].set_title("images", fontsize=8)
    grid[0][1].set_title(f"difference from the full LoRA, times {DIFFERENCE}", fontsize=8)
    _save(figure, picture)


def _show(axes: Axes, images: Tensor, limits: tuple[int, int]) -> None:
    """Show images [n, 8, 8] side by side, with a gap between them."""
    row = images.new_full((8, 9 * len(images)), limits[0] if limits[1] == 1 else 0)
    for at, image in enumerate(images):
        row[:, 9 * at : 9 * at + 8] = image
    colours = "gray" if limits[1] == 1 else "RdBu"
    axes.imshow(row.numpy(), cmap=colours, vmin=limits[0], vmax=limits[1], aspect="equal")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _save(figure: Figure, picture: Path) -> None:
    """Write the same bytes in every run, with text as text where the format has it."""
    picture.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lensd"}):
        svg = picture.suffix == ".svg"
        metadata = {"Date": None, "Creator": None} if svg else {"Software": None}
        figure.savefig(picture, metadata=metadata, dpi=130)
    print(f"{picture.name} is drawn")
