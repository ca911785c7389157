"""Fit the constants by which `device: auto` predicts the CPU seconds of a file.

Run it from the top of the tree with `python -m bench.prediction`, after `python -m bench.engine`.
It prints SECONDS of lensd/worker/device.py as the file of results has it: the three constants that
make the squared relative errors of mode ultra's CPU seconds smallest, none of them negative. Below
it prints measured and predicted seconds of each file, with these and with the present constants.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import numpy as np

from bench.engine import RECIPES, RESULTS
from bench.sizes import Recipe
from lensd.worker.device import SECONDS, Work, predicted_cpu_seconds
from tests.support import sdxl_flux
from tests.support.architectures import sd15


def work_of(recipe: Recipe) -> Work:
    modules = getattr(sdxl_flux, recipe.modules)() if recipe.modules else sd15()
    ranks = [min(recipe.rank, m.out_features, m.fan_in) for m in modules]
    elements = [k * (m.out_features + m.fan_in) for k, m in zip(ranks, modules, strict=True)]
    products = sum(n * k for n, k in zip(elements, ranks, strict=True))
    return Work(len(modules), sum(elements), products)


def measured(results: Path = RESULTS) -> dict[str, tuple[Work, float]]:
    """Return what the prediction of each file starts from, and its CPU seconds in mode ultra."""
    files = json.loads(results.read_text(encoding="utf-8"))["files"]
    return {
        recipe.name: (work_of(recipe), median(files[recipe.name]["cpu_seconds"]["ultra"]))
        for recipe in RECIPES
        if recipe.name in files
    }


def fit(found: Sequence[tuple[Work, float]]) -> Work:
    """Return the constants. A column whose constant would be negative is left out."""
    rows = np.array([np.array(work) / seconds for work, seconds in found])
    best, least = np.zeros(len(Work._fields)), np.inf
    for size in range(1, 1 + len(Work._fields)):
        for columns in map(list, itertools.combinations(range(len(Work._fields)), size)):
            constants = np.zeros(len(Work._fields))
            constants[columns] = np.linalg.lstsq(rows[:, columns], np.ones(len(rows)), rcond=None)[
                0
            ]
            error = float(np.square(rows @ constants - 1).sum())
            if constants.min() >= 0 and error < least:
                best, least = constants, error
    return Work(*(float(f"{constant:.2g}") for constant in best))


def table(found: dict[str, tuple[Work, float]], fitted: Work) -> Iterator[str]:
    yield "| file | measured | fitted | present constants |"
    yield "|---|---:|---:|---:|"
    for name, (work, seconds) in found.items():
        predicted = [predicted_cpu_seconds(work, 1, constants) for constants in (fitted, SECONDS)]
        cells = [f"{p:.2f} s ({p / seconds:.2f} times)" for p in predicted]
        yield f"| {name} | {seconds:.2f} s | {' | '.join(cells)} |"


def main() -> int:
    found = measured()
    fitted = fit(list(found.values()))
    print(f"SECONDS = {fitted}")
    print(*table(found, fitted), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
