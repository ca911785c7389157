"""Files of rank 64 and more, which float32 may solve: numbers equal those of full float64."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.engine import asking
from tests.engine.asking import MODES
from tests.lora import making
from tests.lora.making import Made

RANK = 72


def pair(kind: str, seed: int, fall: float) -> Made:
    """Return float16 factors of rank 72 whose singular values decrease by e^-fall."""
    up, down = making.factors(kind, 160, 120, RANK, seed)
    sizes = torch.exp(-torch.arange(RANK, dtype=torch.float64) * fall / RANK)
    return Made((up * sizes).half().contiguous(), down.half().contiguous(), 36.0)


def large(path: Path) -> making.Tensors:
    """Write typical modules, one that needs all ranks, and some that float32 cannot resolve."""
    kinds = {
        "random": 4.0,
        "decaying": 1.0,
        "flat": 0.0,
        "deficient": 1.0,
        "gauge": 1.0,
        "zero": 1.0,
    }
    tensors: making.Tensors = {}
    for at, (kind, fall) in enumerate(kinds.items()):
        tensors |= making.kohya(f"lora_unet_{kind}", pair(kind, at, fall))
        tensors |= making.kohya(f"lora_unet_{kind}_b", pair(kind, at + 10, fall))
    # With another alpha than most modules it is computed, not copied.
    tensors["lora_unet_flat_b.alpha"] = torch.tensor(9.0).half()
    save_file(tensors, path)
    return tensors


@pytest.mark.parametrize("mode", MODES)
def test_every_number_is_true_of_large_ranks(tmp_path: Path, mode: str) -> None:
    """Ranks are equal; energies agree to 1e-6, errors to 1e-6 of themselves."""
    source, out = tmp_path / "a.safetensors", tmp_path / "out"
    large(source)
    numbers = asking.compress(source, out, mode=mode, min_saving=-1.0)
    before, after, ranks = asking.deltas(source), asking.deltas(out), asking.rank_of(out)
    errors = {n: float((before[n] - after[n]).square().sum()) for n in before}
    energies = {n: float(d.square().sum()) for n, d in before.items()}
    overall = math.sqrt(math.fsum(errors.values()) / math.fsum(energies.values()))
    assert numbers["delta_error"] == pytest.approx(overall, rel=1e-6, abs=3e-8)
    worst = max((errors[n] / e) ** 0.5 for n, e in energies.items() if e)
    assert numbers["delta_error_max"] == pytest.approx(worst, rel=1e-6, abs=3e-8)
    kept = 0.0
    for name, delta in before.items():
        squares = making.spectrum(delta).square()
        total = float(squares.sum())
        kept += float(squares[: ranks[name]].sum())
        if mode == "int8":
            assert ranks[name] == RANK
        elif total:
            shares = (squares.cumsum(0) / total).tolist()
            assert ranks[name] == next(k for k, share in enumerate(shares, 1) if share >= 0.99)
    share = kept / math.fsum(energies.values())
    assert numbers["energy_retained"]["overall"] == pytest.approx(share, abs=1e-6)
