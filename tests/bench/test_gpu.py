"""bench.gpu: what it compares, shown with the CPU in both roles, and what it says without a GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import gpu
from bench.measured_worker import MeasuredWorker
from tests.support.realistic import small_lora

RIGHT = gpu.Compared("a, ultra", 2.0, 1.0, 0, 0.1, 1e-4, 0.0, 0.99, is_repeatable=True)


def test_one_device_agrees_with_itself(tmp_path: Path) -> None:
    """Ranks, errors and bytes are equal."""
    source = small_lora(tmp_path / "a.safetensors").path
    with MeasuredWorker(tmp_path) as worker:
        found = gpu.compare(worker, source, "a", "ultra", "cpu", tmp_path)
    assert found.is_right
    assert (found.other_ranks, found.error_difference, found.equal_bytes) == (0, 0.0, 1.0)
    assert 0.05 < found.delta_error < 0.15


@pytest.mark.parametrize(
    "wrong", [{"other_ranks": 1}, {"error_difference": 0.02}, {"is_repeatable": False}]
)
def test_what_is_wrong(wrong: dict[str, float]) -> None:
    """Another rank, another error, or other bytes the next time."""
    assert RIGHT.is_right
    assert not RIGHT._replace(**wrong).is_right  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu() -> None:
    """It says so, prints no table, and ends with 2."""
    command = [sys.executable, "-m", "bench.gpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no GPU" in done.stderr
