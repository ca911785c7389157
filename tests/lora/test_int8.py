"""lensd.lora.int8: what loaders compute from int8 factors is exact and finite."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from lensd.lora import fidelity, int8, truncation
from lensd.lora.int8 import Factors, Quantized
from lensd.lora.parameters import Parameters
from lensd.lora.reading import flatten
from tests.lora import making
from tests.support.architectures import sd15
from tests.support.realistic import write_lora
from tests.support.suites import examples

ROTATION_ERROR = torch.finfo(torch.float64).eps * 1e4


def full_product(q: Quantized) -> Tensor:
    """Return up_i8 @ down_i8 in whole numbers, without rounding."""
    return q.up.long() @ q.down.long()


def check(q: Quantized, up: Tensor, down: Tensor) -> None:
    """Assert what is true of every quantization of up @ down."""
    for factor in (q.up, q.down):
        assert factor.dtype == torch.int8
        assert int(factor.long().abs().max()) <= 127
    assert int(full_product(q).abs().max()) <= 45000
    exact = up.double() @ down.double()
    size = float(up.double().norm() * down.double().norm())
    assert float((q.exact_up.double() @ q.exact_down.double() - exact).norm()) <= 1e-6 * size
    decoded_up, decoded_down = (t.double() for t in q.decoded())
    expected = q.scale**2 * full_product(q).double()
    assert float((decoded_up @ decoded_down - expected).norm()) <= 1e-6 * float(expected.norm())


@examples(80)
@given(making.modules(largest=40))
def test_values_products_and_scale_are_within_their_bounds(made: making.Made) -> None:
    """Values are in [-127, 127], products at most 45000; the scale restores the delta weight."""
    up, down = made.up.double().flatten(1), made.down.double().flatten(1)
    check(int8.quantize(up, down), up, down)


def adversaries() -> dict[str, tuple[Tensor, Tensor]]:
    """Return factors whose int8 products would overflow float16 without the guard."""
    random = torch.Generator().manual_seed(7)

    def normal(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=random, dtype=torch.float64)

    signs = normal(1, 128).sign()
    row = normal(300, 128) * 1e-3
    row[17] = 100.0
    down, up = normal(128, 640) * 0.03, normal(320, 128) * 1e-3
    up[:, :4] *= 30  # as in trained files: a few strong directions, the rest is noise
    return {
        "constant": (torch.ones(50, 128).double(), torch.ones(128, 60).double()),
        "signs": (signs.expand(50, 128).clone(), signs.T.expand(128, 60).clone()),
        "one huge row": (row, normal(128, 200)),
        "two huge rows meet": (row, row.T.clone()),
        "trained-like": (up, down),
        "random": (normal(320, 128), normal(128, 768)),
        "one column": (normal(1000, 1), normal(1, 1000)),
        "uniform": (torch.rand(99, 64).double() + 0.5, torch.rand(64, 99).double() + 0.5),
        "rank 1200": (torch.ones(3, 1200).double(), torch.ones(1200, 5).double()),
    }


@pytest.mark.lengthy
@pytest.mark.parametrize("name", list(adversaries()))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_product_exceeds_the_guard(name: str, dtype: torch.dtype) -> None:
    """It is checked in whole numbers, on inputs made to break the guard."""
    up, down = (t.to(dtype) for t in adversaries()[name])
    q = int8.quantize(up, down)
    check(q, up, down)
    exact = up.double() @ down.double()
    noise = float((exact - q.scale**2 * full_product(q)).norm())
    assert noise <= 0.1 * float(exact.norm())


@examples(60)
@given(st.sampled_from(making.KINDS), st.integers(1, 40), st.integers(0, 2**32), st.floats(0, 2))
def test_the_largest_product_is_found_or_bounded(
    kind: str, rank: int, seed: int, share: float
) -> None:
    """A maximum above `enough` is exact; otherwise the result is between the maximum and it."""
    up, down = making.factors(kind, 30, 50, rank, seed)
    true = float((up @ down).abs().max())
    enough = share * true
    found = int8.largest_product(up.numpy(), down.numpy(), enough)
    assert found >= true * (1 - 1e-8)
    if true > enough:
        assert found == pytest.approx(true, rel=1e-8)
    else:
        assert found <= enough * (1 + 1e-8) or found == pytest.approx(true, rel=1e-8)


def test_the_largest_product_is_found_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few rows have the same maximum as the whole product."""
    up, down = making.factors("random", 64, 50, 8, 0)
    monkeypatch.setattr(int8, "BLOCK_ROWS", 3)
    monkeypatch.setattr(int8, "BLOCK_COLUMNS", 7)
    assert int8.largest_product(up.numpy(), down.numpy(), 0.0) == pytest.approx(
        float((up @ down).abs().max())
    )


@pytest.mark.parametrize("rank", [1, 2, 3, 7, 16, 31, 128])
def test_rotations_are_orthogonal_and_differ(rank: int) -> None:
    """So (up R)(R^T down) is the same delta weight, and no two candidates are the same."""
    found = int8.rotations(rank)
    for rotation in found:
        identity = torch.eye(rank, dtype=torch.float64)
        assert float((rotation @ rotation.T - identity).abs().max()) <= ROTATION_ERROR
    assert rank < 8 or len({tuple(r.flatten().tolist()) for r in found}) == int8.ROTATIONS


@pytest.mark.parametrize("scale", [0.0, 1e-300, 1e-60])
def test_a_delta_that_is_almost_zero_becomes_zeros(scale: float) -> None:
    """Factors of zeros, and a scale too small for a float32 alpha, give zeros and no error."""
    up, down = making.factors("random", 6, 5, 3, 0)
    q = int8.quantize(up * scale, down)
    assert not q.up.any()
    assert not q.down.any()
    assert q.scale == 0.0
    assert all(bool(t.isfinite().all()) for t in q.decoded())


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_the_scale_follows_the_factors(scale: float) -> None:
    """Factors of any size give the same int8 values: alpha has the size."""
    up, down = making.factors("random", 30, 20, 6, 0)
    expected, found = int8.quantize(up, down), int8.quantize(up * scale, down)
    assert found.scale == pytest.approx(expected.scale * math.sqrt(scale))
    assert (found.up.long() - expected.up.long()).abs().max() <= 1


def test_alpha_carries_the_scale() -> None:
    """delta = alpha/rank * up @ down, where alpha is a float32 scalar, also in peft's naming."""
    up, down = making.factors("random", 30, 20, 6, 0)
    pair = making.Made(up.half(), down.half(), 3.0)
    flux = "transformer.transformer_blocks.0.attn.to_q"
    for tensors in (making.kohya("lora_unet_x", pair), making.peft(flux, pair)):
        result = making.compressed(tensors, Parameters(mode="int8"))
        ((name, before),) = making.meaning(tensors).items()
        alpha = result[f"{name}.alpha"]
        assert (alpha.dtype, alpha.shape) == (torch.float32, ())
        assert making.distance(before, making.meaning(result)[name]) < 0.02


@pytest.mark.lengthy
def test_the_gauge_gains_2_db_over_the_plain_way_at_the_same_bytes(tmp_path: Path) -> None:
    """It is the median over the modules of a file with real shapes, at 99 % of the energy."""
    modules = [m for m in sd15() if "down_blocks.1" in m.path or "layers.3." in m.path]
    path = tmp_path / "real.safetensors"
    write_lora(path, rank=64, alpha=32.0, modules=modules, effective_rank=16)
    tensors = load_file(path)
    gains = []
    for m in making.plan_of(tensors, Parameters()).modules:
        up, down = flatten(*making.pair_of(tensors, m.module.up, m.module.down))
        (left,), (right,) = truncation.truncate_all([m], Factors(up[None], down[None]), [None])
        factors = left, right
        ours, plain = int8.quantize(*factors), int8.plain(*factors)
        assert ours.up.shape == plain.up.shape
        assert ours.down.shape == plain.down.shape
        gains.append(snr(ours) - snr(plain))
    assert len(gains) >= 20
    assert statistics.median(gains) >= 2.0


def snr(q: Quantized) -> float:
    """Return the SNR of the delta weight in dB, from full matrices."""
    exact = q.exact_up.double() @ q.exact_down.double()
    decoded = q.scale**2 * full_product(q).double()
    found = fidelity.decibels(float(exact.square().sum()), float((exact - decoded).square().sum()))
    assert found is not None
    return found


def test_plain_is_the_textbook_symmetric_quantization() -> None:
    """Each factor has scale = max|tensor| / 127, and values are rounded to the nearest."""
    up, down = making.factors("random", 30, 20, 6, 0)
    q = int8.plain(up, down)
    for factor, found in ((up, q.up), (down, q.down)):
        scale = float(factor.abs().max()) / 127
        assert torch.equal(found, (factor / scale).round().to(torch.int8))
    assert not int8.plain(up * 0, down).up.any()


def test_at_the_full_rank_the_stored_factors_are_a_candidate() -> None:
    """Factors of 1 and -1 have the smallest largest element for their norm: rotations are worse."""
    random = torch.Generator().manual_seed(0)
    up = torch.randn(60, 2, generator=random, dtype=torch.float64).sign()
    down = torch.randn(2, 80, generator=random, dtype=torch.float64).sign()
    q = int8.quantize(*by_svd(up, down), (up, down))
    assert q.squared_noise <= 1e-9 * float((up @ down).square().sum())
    (name, delta), *_ = making.meaning(
        tensors := making.kohya("lora_unet_x", making.Made(up.half(), down.half(), 4.0))
    ).items()
    result = making.compressed(tensors, Parameters(mode="int8"))
    assert making.distance(delta, making.meaning(result)[name]) <= 1e-6


def by_svd(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """Return other factors of the same delta weight: singular vectors times sqrt(s)."""
    left, values, right = torch.linalg.svd(up @ down, full_matrices=False)
    k = up.shape[1]
    root = values[:k].sqrt()
    return left[:, :k] * root, root[:, None] * right[:k]


@pytest.mark.parametrize("size", [1e-45, 1e-30, 1e30])
def test_factors_of_very_different_size_are_not_lost(size: float) -> None:
    """A float64 `down` may be too large or too small for float32 if `up` compensates for it."""
    up, down = making.factors("random", 40, 30, 8, 0)
    pair = making.Made(up / max(size, 1e-35), down * size, 4.0)
    tensors = making.kohya("lora_unet_x", pair)
    for mode in ("int8", "ultra"):
        result = making.compressed(tensors, Parameters(mode=mode, energy=1.0))
        before, after = (making.meaning(t)["lora_unet_x"] for t in (tensors, result))
        assert making.distance(before, after) < 0.02
