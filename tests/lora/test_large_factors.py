"""Factors of many elements are converted some columns at a time, to the same results."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lensd.lora import fidelity, products, spectrum
from lensd.worker import memory
from tests.lora import making

RANK, WIDTH = 32, 600_000  # 73 MiB as float32, 146 MiB as float64


def growth(work: Callable[[], object]) -> float:
    """The most MiB that this process takes beyond those before."""
    memory.return_freed_memory()
    status = Path("/proc/self/status")
    before = _resident(status, "VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    work()
    return _resident(status, "VmHWM") - before


def _resident(status: Path, field: str) -> float:
    found = re.search(rf"{field}:\s+(\d+)", status.read_text())
    assert found is not None
    return int(found[1]) / 1024


@pytest.fixture
def wide() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    return torch.randn(40, RANK, generator=random), torch.randn(RANK, WIDTH, generator=random)


def test_a_core_takes_no_copy_of_its_factors(wide: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Neither by Gram matrices nor by QR decompositions."""
    assert growth(lambda: spectrum.core(*wide)) < 110
    up, down = wide
    up[:, 1], down[1] = -up[:, 0], down[0] + 1e-6 * down[1]  # the factors cancel each other
    up[:, :2] *= 1e3
    assert growth(lambda: spectrum.core(up, down)) < 110


def test_roundings_are_measured_without_copies(wide: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Neither of the difference nor of the rounded factors in float64."""
    exact, rounded = [t.double() for t in wide], [t.bfloat16() for t in wide]
    assert growth(lambda: fidelity.squared_roundings(*exact, *rounded)) < 220
    assert growth(lambda: fidelity.element_errors([(t[None], t[None]) for t in exact], [1])) < 220


def test_the_parts_give_the_results_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """With parts of a few columns, for one module and for a stack."""
    up, down = making.factors("decaying", 50, 70, 12, 3)
    rounded = up.bfloat16(), down.bfloat16()
    stacked = [torch.stack([t, 2 * t]) for t in (up, down)]

    def results() -> list[torch.Tensor]:
        return [
            spectrum.core(up, down).values,
            spectrum.core(*stacked).values,
            fidelity.squared_roundings(up, down, *rounded),
            fidelity.squared_roundings(*stacked, *(t.bfloat16() for t in stacked)),
        ]

    whole = results()
    monkeypatch.setattr(products, "PIECE", 100)
    monkeypatch.setattr(spectrum, "PIECE", 100)
    assert all(torch.allclose(a, b, rtol=1e-9) for a, b in zip(results(), whole, strict=True))
