"""lensd.lora.comparison: pairs of modules in two files, and the distance of their delta weights."""

from __future__ import annotations

import pytest
from hypothesis import given
from torch import Tensor

from lensd.lora import comparison
from tests.lora import making
from tests.lora.making import Made, Tensors
from tests.lora.test_adapter import layout


@given(making.modules(), making.modules())
def test_distance_is_that_of_the_delta_weights(a: Made, b: Made) -> None:
    """For any two ranks it equals that of the full matrices in float64."""
    out, width = a.delta.shape
    if b.delta.shape != (out, width):  # the same module in two files has the same widths
        up, down = making.factors("random", out, width, b.rank, 7)
        b = Made(up, down, b.alpha)
    found = comparison.distance(*((m.up, m.down, scale(m)) for m in (a, b)))
    # The sums are of products of the factors' squares, so they round even if the product is small.
    rounding = 1e-13 * sum(size(m) for m in (a, b))
    assert found.energy_a == pytest.approx(squared(a.delta), abs=rounding)
    assert found.energy_b == pytest.approx(squared(b.delta), abs=rounding)
    # The difference is computed from products of one file's up with the other file's down.
    crossed = sum(size(Made(one.up, other.down, one.alpha)) for one in (a, b) for other in (a, b))
    expected = squared(a.delta - b.delta)
    assert found.squared_error == pytest.approx(expected, abs=4 * (rounding + 1e-13 * crossed))


def scale(made: Made) -> float:
    return (made.alpha or made.rank) / made.rank


def squared(tensor: Tensor) -> float:
    return float(tensor.double().square().sum())


def size(made: Made) -> float:
    return squared(made.up) * squared(made.down) * scale(made) ** 2


def test_a_module_has_distance_0_from_itself() -> None:
    """It is exactly 0, although a difference of norms would have a rounding error."""
    up, down = making.factors("random", 30, 20, 6, 1)
    assert comparison.distance((up, down, 0.3), (up, down, 0.3)).squared_error == 0


def test_pairs_across_namings_in_the_first_files_order() -> None:
    """Modules match by canonical name and widths; the rest is listed for each file."""
    ours = layout({"unet.b.to_q": 4, "unet.a.to_q": 3, "unet.c.to_q": 2})
    theirs = layout(
        {"lora_unet_a_to_q": 8, "lora_unet_b_to_q": 8, "lora_unet_d_to_q": 1},
        ".lora_down.weight",
        ".lora_up.weight",
    )
    found = comparison.pair(ours.modules, theirs.modules)
    assert [(a.name, b.name) for a, b in found.both] == [
        ("unet.b.to_q", "lora_unet_b_to_q"),
        ("unet.a.to_q", "lora_unet_a_to_q"),
    ]
    assert [m.name for m in found.only_a] == ["unet.c.to_q"]
    assert [m.name for m in found.only_b] == ["lora_unet_d_to_q"]


def test_modules_of_other_widths_are_other_modules() -> None:
    """Two base models may have modules of the same name."""
    tensors: list[Tensors] = []
    for width in (20, 24):
        up, down = making.factors("random", 30, width, 4, 0)
        tensors.append(making.kohya("lora_unet_x", Made(up.half(), down.half(), None)))
    a, b = (making.read(t)[0] for t in tensors)
    found = comparison.pair(a.modules, b.modules)
    assert (len(found.both), len(found.only_a), len(found.only_b)) == (0, 1, 1)


@pytest.mark.parametrize(
    ("squared", "energy", "error"), [(0.0, 0.0, 0.0), (4.0, 0.0, None), (1.0, 4.0, 0.5)]
)
def test_relative(squared: float, energy: float, error: float | None) -> None:
    """A difference from a delta weight of zeros has no relative error."""
    assert comparison.relative(squared, energy) == error
