"""bench.pictures: it trains, measures and draws, here with the smallest of efforts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import pictures_tables
from bench.pictures import ENCODINGS

TINY = (
    *("--trainings", "conv:0", "--model-steps", "2", "--lora-steps", "2", "--rank", "8"),
    *("--images", "4", "--sampling-steps", "2"),
)


@pytest.mark.slow
def test_one_short_training_is_measured_and_drawn(tmp_path: Path) -> None:
    """Each rule and each setting has a damage; the tables name them; both pictures are there."""
    pytest.importorskip("sklearn", reason="bench.pictures trains on scikit-learn's digits")
    results = tmp_path / "results.json"
    folders = ("--cache", str(tmp_path / "cache"), "--pictures", str(tmp_path))
    command = [sys.executable, "-m", "bench.pictures", *folders, "--results", str(results), *TINY]
    printed = subprocess.check_output(command, text=True)
    found = json.loads(results.read_text())
    assert all(row["damage"] >= 0 for part in ("rules", "settings") for row in found[part])
    assert {row["stored"] for row in found["settings"]} == set(ENCODINGS)
    for rule in ("module", "p = 0.5", "base norm", "`balanced`"):
        assert f"| {rule} |" in printed
    assert (tmp_path / "quality.svg").read_text().startswith("<?xml")
    assert (tmp_path / "quality-images.png").read_bytes().startswith(b"\x89PNG")


def row(training: str, rule: str, damage: float) -> dict[str, object]:
    return {"training": training, "rule": rule, "energy": 0.99, "damage": damage}


def test_rules_are_compared_by_the_mean_ratio_of_their_damages() -> None:
    """A ratio is taken within one training; the mean is geometric."""
    rows = [
        row("a", "p = 0", 0.1),
        row("a", "x", 0.05),
        row("b", "p = 0", 0.01),
        row("b", "x", 0.02),
    ]
    *_, plain, other = pictures_tables.rules(rows)
    assert plain == "| p = 0 | 1.00 (1.00 - 1.00) | 1.00 (1.00 - 1.00) | 2 |"
    assert other == "| x | 1.00 (0.50 - 2.00) | 1.00 (0.50 - 2.00) | 2 |"
