"""32-bit weights that float16 can hold only as subnormals become bfloat16, by measured loss."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.engine.asking import compress, deltas
from tests.lora import making
from tests.lora.making import Made

NAMES = ("lora_unet_usual", "lora_unet_tiny")


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A float32 file with a usual module, and one whose delta weight is 1e-12 of that size."""
    tensors: making.Tensors = {}
    for name, size in zip(NAMES, (1.0, 1e-6), strict=True):
        up, down = making.factors("random", 64, 48, 16, len(name))
        tensors |= making.kohya(name, Made((up * size).float(), (down * size).float(), 16.0))
    path = tmp_path / "a.safetensors"
    save_file(tensors, path)
    return path


def error(before: Path, after: Path, name: str) -> float:
    return making.distance(deltas(before)[name], deltas(after)[name])


@pytest.mark.parametrize("energy", [0.9, 1.0])
def test_the_tiny_module_becomes_bfloat16_and_the_other_float16(
    mixed: Path, tmp_path: Path, energy: float
) -> None:
    """With reduced ranks, and with all of them."""
    auto, forced = tmp_path / "auto", tmp_path / "forced"
    compress(mixed, auto, mode="rank", energy=energy)
    compress(mixed, forced, mode="rank", energy=energy, float32="float16")
    usual, tiny = (f"{n}.lora_up.weight" for n in NAMES)
    dtypes = {k: t.dtype for k, t in load_file(auto).items()}
    assert (dtypes[usual], dtypes[tiny]) == (torch.float16, torch.bfloat16)
    assert load_file(forced)[tiny].dtype == torch.float16
    assert error(mixed, auto, NAMES[0]) == error(mixed, forced, NAMES[0])
    assert error(mixed, auto, NAMES[1]) < 0.98 * error(mixed, forced, NAMES[1])
    if energy == 1:
        assert error(mixed, auto, NAMES[0]) < 4e-4
        assert error(mixed, auto, NAMES[1]) < 4e-3 < error(mixed, forced, NAMES[1])
