"""lensd.lora.float8: the error is measured, never above the plain cast's, and mostly far below."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from lensd.lora import compress, float8, planning
from lensd.lora.float8 import FLOAT8, Rounded, Spectrum
from lensd.lora.parameters import Parameters
from lensd.lora.plan import Findings
from lensd.lora.portability import Encoding
from tests.lora import making
from tests.support.architectures import sd15
from tests.support.realistic import write_lora
from tests.support.suites import examples

UNMERGED = Parameters(targets=("comfyui-bypass",))


def cast(t: Tensor) -> Tensor:
    """Return what torch's own cast makes of it, as float64."""
    return t.clamp(-448, 448).to(FLOAT8).double()


def noise(up: Tensor, down: Tensor, rounded_up: Tensor, rounded_down: Tensor) -> float:
    """Return ||up down - up' down'||_F from full matrices in float64."""
    return float((making.product(up, down) - making.product(rounded_up, rounded_down)).norm())


def check(r: Rounded, up: Tensor, down: Tensor) -> None:
    """Assert what is true of every rounding of up @ down."""
    for factor in (r.up, r.down):
        assert factor.dtype == FLOAT8
        assert bool(factor.double().isfinite().all())
    # The sums of squares are float32.
    tiny = 1e-6 * float(up.double().norm() * down.double().norm()) ** 2
    applied = noise(up, down, r.up, r.down) ** 2
    assert r.squared_noise == pytest.approx(applied, rel=1e-3, abs=tiny)
    assert applied <= noise(up, down, cast(up), cast(down)) ** 2 * (1 + 1e-3) + tiny


@examples(120)
@given(making.modules(largest=40), st.sampled_from([1e-3, 0.1, 1.0, 30.0, 1e4]))
def test_the_reported_error_is_applied_and_never_above_the_plain_cast(
    made: making.Made, size: float
) -> None:
    """For all shapes and sizes, also where values lie below or above the range of float8."""
    up, down = (t.float().flatten(1) * size for t in (made.up, made.down))
    check(float8.round_factors(up, down), up, down)


def test_rounding_is_that_of_torch() -> None:
    """All float32 numbers of 16 bits, and their neighbours: to nearest, ties to even."""
    every = np.arange(2**16, dtype=np.uint32) << 16
    bits = np.concatenate([every - 1, every, every + 1, every + 2**15])
    numbers = torch.from_numpy(bits.view(np.float32))
    numbers = numbers[numbers.isfinite()]
    assert torch.equal(float8.nearest(numbers).double(), cast(numbers))


def test_zeros_stay_zeros() -> None:
    """A module without content becomes zeros in both factors, without an error."""
    tensors = making.small_file()
    tensors["lora_unet_a.lora_up.weight"] *= 0
    m = making.plan_of(tensors, UNMERGED).modules[0]
    r = compress.reduce(m, *making.pair_of(tensors, m.module.up, m.module.down))
    assert (m.module.name, m.encoding) == ("lora_unet_a", "F8_E4M3")
    assert (r.squared_error, r.elements.squared, r.elements.signal) == (0.0, 0.0, 0.0)
    assert not any(bool(t.double().any()) for t in (r.up, r.down))


def test_factors_that_float8_represents_are_kept_exactly() -> None:
    """The given factors, and at the full rank the stored ones, are candidates as they are."""
    random = torch.Generator().manual_seed(0)
    up = torch.randn(60, 4, generator=random).to(FLOAT8).float()
    down = torch.randn(4, 80, generator=random).to(FLOAT8).float()
    assert float8.round_factors(up, down).squared_noise == 0.0
    tensors = making.kohya("lora_unet_x", making.Made(up.half(), down.half(), 4.0))
    result = making.compressed(tensors, Parameters(mode="int8", targets=("comfyui-bypass",)))
    assert result["lora_unet_x.lora_up.weight"].dtype == FLOAT8
    before, after = (making.meaning(t)["lora_unet_x"] for t in (tensors, result))
    assert making.distance(before, after) <= 1e-7


@pytest.mark.parametrize("rank", [1, 31, 32, 33, 64, 70])
def test_errors_are_passed_on_across_blocks(rank: int) -> None:
    """Every column is rounded from its value and the errors of all later ones."""
    up, down = (t.float() for t in making.factors("random", 90, 110, rank, 0))
    rows = down.numpy()
    lower = np.linalg.cholesky((up.T.double() @ up.double()).numpy())
    wanted, errors = rows.astype(np.float64), np.zeros_like(rows, dtype=np.float64)
    for j in range(rank - 1, -1, -1):
        row = wanted[j] + errors.T @ lower[:, j] / lower[j, j]
        wanted[j] = cast(torch.from_numpy(row).float())
        errors[j] = rows[j] - wanted[j]
    found = float8._round_rows(down[None], (up.T @ up)[None])[0]
    assert float((found.double() - torch.from_numpy(wanted)).norm()) <= 0.01 * float(down.norm())


def test_numbers_that_are_not_finite_are_too_noisy() -> None:
    """No plan accepts such a module in 8 bits; in floats its error is reported."""
    up, down = (t.float() for t in making.factors("random", 30, 20, 6, 0))
    up[3, 2] = math.inf
    assert not float8.round_factors(up, down).squared_noise <= 1.0


@pytest.mark.slow
@pytest.mark.lengthy
@pytest.mark.parametrize("energy", [0.99, 1.0])
def test_the_median_error_is_below_that_of_the_plain_cast(tmp_path: Path, energy: float) -> None:
    """By a third at 99 % of the energy, in a file with real shapes; never above in any module."""
    modules = [m for m in sd15() if "down_blocks.1" in m.path or "layers.3." in m.path]
    path = tmp_path / "real.safetensors"
    write_lora(path, rank=64, alpha=32.0, modules=modules, effective_rank=16)
    tensors = load_file(path)
    p = Parameters(targets=("diffusers",), energy=energy)
    ours, plain = [], []
    for m in making.plan_of(tensors, p).modules:
        assert m.encoding == "F8_E4M3"
        pair = making.pair_of(tensors, m.module.up, m.module.down)
        r = compress.reduce(m, *pair)
        floats = compress.reduce(replace(m, encoding="F32"), *pair)
        applied = noise(floats.up.mT, floats.down, r.up.mT, r.down) * r.scale
        assert math.sqrt(r.squared_error) == pytest.approx(applied, rel=1e-3)
        signal = math.sqrt(r.squared_signal)
        ours.append(applied / signal)
        up, down = floats.up.mT, floats.down
        plain.append(noise(up, down, cast(up), cast(down)) * r.scale / signal)
    assert len(ours) >= 20
    assert statistics.median(ours) <= 0.033
    assert energy == 1 or statistics.median(ours) <= 2 / 3 * statistics.median(plain)
    assert all(a <= b * (1 + 1e-3) for a, b in zip(ours, plain, strict=True))


@pytest.mark.parametrize("size", [0.003, 0.01, 0.02, 0.1])
@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_the_error_can_be_expected_from_the_spectrum(size: float, decay: float) -> None:
    """Within 10 %; so modules that would lose too much need no attempt."""
    random = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(400, 20, generator=random)).Q
    right = torch.linalg.qr(torch.randn(900, 20, generator=random)).Q
    values = torch.exp(-decay * torch.arange(20.0))
    spectrum = Spectrum.of(values.double().numpy(), 400, 900)
    values = values * (size / spectrum.element_size) ** 2
    spectrum = Spectrum.of(values.double().numpy(), 400, 900)
    assert spectrum.element_size == pytest.approx(size)
    root = values.sqrt()
    found = float8.round_factors(left * root, root[:, None] * right.T)
    relative = math.sqrt(found.squared_noise) / float(values.norm())
    assert spectrum.expected_noise == pytest.approx(relative, rel=0.1)


def test_the_alpha_is_divided_by_what_small_factors_need() -> None:
    """The divisor is a power of two, within the limits for sizes and for products."""

    def divisor(*sizes: float) -> int:
        return float8.alpha_divisor(Spectrum.of(np.full(4, size), 100, 100) for size in sizes)

    assert divisor(1.0) == 1  # elements of 0.1
    assert divisor(0.1) == 4  # elements of 0.032, of 0.063 with the divisor
    assert divisor(0.1, 1e-9) == divisor(1e-9) == 64
    assert divisor(0.1, 30.0) == 2  # products of up to 60
    assert divisor(1e-9, 1000.0) == 1
    assert divisor() == divisor(0.0) == 1
    assert Spectrum.of(np.zeros(4), 100, 100).expected_noise == 0.0


def test_modules_share_one_alpha_and_keep_their_meaning() -> None:
    """Also one that stays in floats: diffusers misreads alphas that differ."""
    tensors = making.small_file(alpha=4.0)
    for key in ("lora_unet_a.lora_up.weight", "lora_unet_b.lora_up.weight"):
        tensors[key] = tensors[key] / 100
    found = Findings(too_noisy=frozenset({("lora_unet_b", "F8_E4M3")}))
    layout, readings = making.read(tensors)
    plan = planning.plan(layout, making.specs_of(tensors), readings, UNMERGED, found)
    assert {m.encoding for m in plan.modules if m.module.name != "lora_unet_b"} == {"F8_E4M3"}
    assert (plan.float_because, plan.alpha) == ({"noise": 1}, 4.0 / 64)
    for m in plan.modules:
        r = compress.reduce(m, *making.pair_of(tensors, m.module.up, m.module.down))
        assert float(r.tensors[m.module.alpha_key]) == 4.0 / 64
        before, after = making.meaning(tensors), making.meaning(r.tensors)
        assert making.distance(before[m.module.name], after[m.module.name]) < 0.12


@pytest.mark.parametrize(
    ("encodings", "targets", "expected"),
    [
        (("int8", "float8"), ("comfyui",), "I8"),
        (("int8", "float8"), ("comfyui", "comfyui-bypass"), "F8_E4M3"),
        (("int8",), ("comfyui", "comfyui-bypass"), "F16"),
        (("float8",), ("comfyui",), "F8_E4M3"),
        (("int8", "float8"), ("comfyui-bypass",), "F8_E4M3"),
    ],
)
def test_targets_and_settings_choose_the_encoding(
    encodings: tuple[Encoding, ...], targets: tuple[str, ...], expected: str
) -> None:
    """int8 where all targets load it, else float8 where all load it, else 16 bits."""
    p = Parameters(encodings=encodings, targets=targets)
    plan = making.plan_of(making.small_file(), p)
    assert {m.encoding for m in plan.modules} == {expected}


def test_a_module_that_int8_costs_too_much_becomes_float8() -> None:
    """If all targets load it so; then it stays in floats if float8 costs too much as well."""
    tensors = making.small_file()
    layout, readings = making.read(tensors)

    def encoding(*too_noisy: tuple[str, str]) -> str:
        found = Findings(too_noisy=frozenset(too_noisy))
        plan = planning.plan(layout, making.specs_of(tensors), readings, Parameters(), found)
        return next(m.encoding for m in plan.modules if m.module.name == "lora_unet_a")

    assert encoding() == "I8"
    assert encoding(("lora_unet_a", "I8")) == "F8_E4M3"
    assert encoding(("lora_unet_a", "I8"), ("lora_unet_a", "F8_E4M3")) == "F16"
