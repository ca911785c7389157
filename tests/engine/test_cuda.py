"""The same numerics on a GPU, if there is one: outputs agree on every device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.engine import asking
from tests.engine.asking import MODES
from tests.lora import making
from tests.support.architectures import sd15
from tests.support.realistic import small_lora, write_lora

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
@pytest.mark.parametrize("mode", MODES)
def test_a_gpu_writes_what_the_cpu_writes(tmp_path: Path, mode: str, dtype: str) -> None:
    """Ranks, energies and errors are equal, and the bytes are the same each time."""
    source, on_cpu, on_gpu = (tmp_path / name for name in ("a.safetensors", "cpu", "gpu"))
    small_lora(source, zero_modules=1, dtype=dtype)
    expected = asking.compress(source, on_cpu, mode=mode, min_saving=-1.0)
    numbers = asking.compress(source, on_gpu, mode=mode, min_saving=-1.0, device="cuda")
    assert numbers["device"] == "cuda"
    assert asking.rank_of(on_gpu) == asking.rank_of(on_cpu)
    for key in ("delta_error", "delta_error_max"):
        assert numbers[key] == pytest.approx(expected[key], rel=1e-2, abs=1e-6)
    kept, found = expected["energy_retained"], numbers["energy_retained"]
    assert found["overall"] == pytest.approx(kept["overall"], abs=1e-9)
    before, after = asking.deltas(source), asking.deltas(on_gpu)
    for name, delta in before.items():
        distance = making.distance(delta, after[name])
        assert distance <= numbers["delta_error_max"] * (1 + 1e-6) + 1e-6
    again = asking.compress(source, on_gpu, mode=mode, min_saving=-1.0, device="cuda")
    assert again["sha256_out"] == numbers["sha256_out"]


def test_large_ranks_are_those_of_the_cpu(tmp_path: Path) -> None:
    """These are ranks that float32 may choose."""
    source, out = tmp_path / "a.safetensors", tmp_path / "out"
    modules = [m for m in sd15() if "layers.3." in m.path]
    write_lora(source, rank=96, alpha=48.0, modules=modules, effective_rank=20)
    asking.compress(source, out)
    expected = asking.rank_of(out)
    numbers = asking.compress(source, out, device="cuda")
    assert (numbers["device"], asking.rank_of(out)) == ("cuda", expected)
