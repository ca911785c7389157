"""`lensd analyze`: what a LoRA would shrink to."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest

from lensd.report.amounts import size
from tests.support.home_server import Seen
from tests.support.realistic import small_lora

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def test_spectrum_and_ranks_are_those_of_a_float64_svd(lensd: Run, tmp_path: Path) -> None:
    """Per module: singular values, and the smallest rank that holds each energy."""
    made = small_lora(tmp_path / "style.safetensors", seed=3)
    before = Seen.of(made.path)
    done = lensd("analyze", "--json", made.path.name)
    assert done.returncode == 0, done.stderr
    numbers = json.loads(done.stdout)
    truth = made.spectra()
    assert {d["module"] for d in numbers["details"]} == set(truth)
    for detail in numbers["details"]:
        values = truth[detail["module"]][: detail["rank"]]
        assert detail["spectrum"] == pytest.approx(values, rel=1e-4, abs=1e-6)
        energies = (values**2).cumsum() / (values**2).sum()
        for energy, rank in detail["ranks"].items():
            assert rank == 1 + int((energies < float(energy)).sum())
    assert before == Seen.of(made.path)
    assert [made.path.name] == os.listdir(tmp_path)


@pytest.mark.slow
def test_the_predicted_sizes_are_the_real_ones(lensd: Run, tmp_path: Path) -> None:
    """To the byte, for each mode."""
    path = small_lora(tmp_path / "style.safetensors", seed=4).path
    predicted = json.loads(lensd("analyze", "--json", path.name).stdout)["predicted"]
    for mode, expected in predicted.items():
        done = lensd("compress", path.name, "-o", mode, "--mode", mode)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / mode).stat().st_size == expected
    assert set(predicted) == {"rank", "int8", "ultra"}


def test_the_text_and_a_file_that_is_none(lensd: Run, tmp_path: Path) -> None:
    """Ranks by block and sizes by mode, as columns; another file's reason is on stderr."""
    path = small_lora(tmp_path / "style.safetensors", seed=5).path
    (tmp_path / "page.safetensors").write_text("<html></html>")
    done = lensd("analyze", path.name, "page.safetensors")
    assert done.returncode == 0
    assert "style.safetensors: 40.3 kB" in done.stdout
    numbers = json.loads(lensd("analyze", "--json", path.name).stdout)
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line}
    medians = [
        f"{median(d['ranks'][energy] for d in numbers['details']):g}"
        for energy in ("0.9", "0.95", "0.99", "0.999")
    ]
    ranks = numbers["rank_in"]
    spread = f"{ranks['min']}" if ranks["min"] == ranks["max"] else f"{ranks['min']}-{ranks['max']}"
    assert rows["all"][:6] == [str(numbers["modules"]), spread, *medians]
    blocks = [name for name in rows if re.fullmatch(r"[a-z]+_blocks?(\.\d+)?|te1\.\d+|other", name)]
    assert numbers["modules"] == sum(int(rows[name][0]) for name in blocks)
    for mode, predicted in numbers["predicted"].items():
        assert rows[mode] == [*size(predicted).split(), f"{numbers['bytes_in'] / predicted:.1f}"]
    assert "skipped: page.safetensors" in done.stderr
    assert lensd("analyze", "none.safetensors").returncode == 2
