"""Files whose shapes ask for far more than a LoRA needs."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lensd.engine import task
from lensd.errors import Failed, Skipped
from tests.engine import asking
from tests.fuzz.bombs import Hole, write
from tests.lora import making
from tests.lora.making import Made


def bomb(path: Path, **more: torch.Tensor) -> None:
    """A delta weight of 4 x 4, whose factors have 132 kB at rank 8192."""
    rank, random = 8192, torch.Generator().manual_seed(1)
    up, down = torch.randn(4, rank, generator=random), torch.randn(rank, 4, generator=random)
    made = Made(up.half(), down.half(), float(rank))
    save_file(making.kohya("lora_unet_a", made) | more, path)


@pytest.mark.parametrize("allocation", ["module", "file", "balanced"])
@pytest.mark.parametrize("mode", asking.MODES)
def test_a_rank_bomb_is_compressed_at_its_true_rank(
    tmp_path: Path, mode: str, allocation: str
) -> None:
    """The rank is at most 4, and the error is that of the full delta weights."""
    source, out = tmp_path / "a.safetensors", tmp_path / "out"
    bomb(source)
    numbers = asking.compress(source, out, mode=mode, allocation=allocation)
    assert 1 <= asking.rank_of(out)["lora_unet_a"] <= 4
    before, after = (asking.deltas(path)["lora_unet_a"] for path in (source, out))
    error = float((before - after).norm() / before.norm())
    assert numbers["delta_error"] == pytest.approx(error, rel=1e-6)
    assert error < (0.05 if mode == "int8" else math.sqrt(1 - 0.99) + 0.05)


def test_a_rank_that_must_not_change(tmp_path: Path) -> None:
    """A DoRA for diffusers in float32: stored as float16 at its rank, and measured."""
    source, out = tmp_path / "a.safetensors", tmp_path / "out"
    bomb(source, **{"lora_unet_a.dora_scale": torch.ones(4, 1)})
    wide = {k: t.float() + 1e-5 for k, t in load_file(source).items()}
    save_file(wide, source)
    numbers = asking.compress(source, out, mode="rank", targets=("diffusers",))
    assert asking.rank_of(out) == {"lora_unet_a": 8192}
    before, after = (asking.deltas(path)["lora_unet_a"] for path in (source, out))
    error = float((before - after).norm() / before.norm())
    assert numbers["delta_error"] == pytest.approx(error, rel=1e-6)


def test_analyze_shows_the_spectrum_of_the_delta_weight(tmp_path: Path) -> None:
    """Four values, not 8192, and the bytes that each mode gives."""
    source, out = tmp_path / "a.safetensors", tmp_path / "out"
    bomb(source)
    found = task.analyze_in_detail(asking.analysis(source))
    assert [len(found.details[0].spectrum), found.details[0].rank] == [4, 8192]
    for mode in asking.MODES:
        assert (
            getattr(found.predicted, mode) == asking.compress(source, out, mode=mode)["bytes_out"]
        )


def test_a_file_that_costs_too_much_is_refused_by_its_header(tmp_path: Path) -> None:
    """Of 1 GB nothing is read; the message has the module, the cost and the limit."""
    source, out = tmp_path / "a.safetensors", tmp_path / "out"
    hole = Hole("F16", (16384, 16384))
    write(source, {f"a.lora_{part}.weight": hole for part in ("up", "down")})
    for work in (
        lambda: asking.compress(source, out),
        lambda: task.analyze(asking.analysis(source)),
    ):
        with pytest.raises(
            Skipped, match=r"module a .*rank 16384.* the limit of a module"
        ) as caught:
            work()
        assert caught.value.reason == "too_costly"


def test_an_alpha_that_leaves_nothing_of_another_module(tmp_path: Path) -> None:
    """All modules in floats have one alpha; what float16 then loses is measured, not a bug."""
    source, out = tmp_path / "a.safetensors", tmp_path / "out"
    tensors = making.small_file()
    for name in ("a", "b", "conv"):
        tensors[f"lora_unet_{name}.alpha"] = torch.tensor(3e38)
    save_file(tensors, source)
    numbers = asking.compress(source, out, mode="rank", min_saving=-1.0)
    assert numbers["delta_error_max"] == pytest.approx(1.0)
    assert numbers["delta_error"] < 0.11


@pytest.mark.parametrize("mode", asking.MODES)
def test_weights_below_the_smallest_normal_number(tmp_path: Path, mode: str) -> None:
    """Their ratio to the other factor's is infinite in float64; programs compute them as zero."""
    source, out = tmp_path / "a.safetensors", tmp_path / "out"
    made = Made(torch.full((64, 16), 1e-310).double(), torch.ones(16, 64).double(), 4.0)
    save_file(making.small_file() | making.kohya("lora_unet_tiny", made), source)
    assert asking.compress(source, out, mode=mode)["delta_error"] < 0.11


def test_weights_that_no_number_format_can_hold(tmp_path: Path) -> None:
    """The alpha of one module moves into its `up`, which is float16: a reason, not a bug."""
    source, out = tmp_path / "a.safetensors", tmp_path / "out"
    tensors = making.small_file()
    tensors["lora_unet_a.alpha"] = torch.tensor(2**63 - 1)
    save_file(tensors, source)
    with pytest.raises(
        Failed, match=r"lora_unet_a, times alpha / rank .* too large for F16"
    ) as caught:
        asking.compress(source, out, mode="rank")
    assert caught.value.reason == "not_finite"
