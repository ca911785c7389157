"""`lensd analyze`: what a LoRA would shrink to."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

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
    for mode, size in predicted.items():
        done = lensd("compress", path.name, "-o", mode, "--mode", mode)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / mode).stat().st_size == size
    assert set(predicted) == {"rank", "int8", "ultra"}


def test_the_text_and_a_file_that_is_none(lensd: Run, tmp_path: Path) -> None:
    """A person reads ranks and sizes; another file's reason is on stderr."""
    path = small_lora(tmp_path / "style.safetensors", seed=5).path
    (tmp_path / "page.safetensors").write_text("<html></html>")
    done = lensd("analyze", path.name, "page.safetensors")
    assert done.returncode == 0
    assert "style.safetensors: 40.3 kB" in done.stdout
    assert "99.0% of the energy: rank" in done.stdout
    for mode in ("rank", "int8", "ultra"):
        assert f"  {mode} " in done.stdout
    assert "skipped: page.safetensors" in done.stderr
    assert lensd("analyze", "none.safetensors").returncode == 2
