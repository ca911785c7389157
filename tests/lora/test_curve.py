"""A file's spectrum as a short curve."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lensd.lora.curve import curve

SPECTRA = st.lists(
    st.lists(st.floats(0, 1e3), min_size=1, max_size=40).map(
        lambda values: torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
    ),
    min_size=1,
    max_size=5,
)


@given(SPECTRA)
def test_each_point_is_the_energy_that_these_ranks_hold(spectra: list[torch.Tensor]) -> None:
    """Against the sum written out; the last rank is the largest and holds all."""
    ranks, energy = curve(spectra)
    total = sum(float(values.square().sum()) for values in spectra)
    assert max(map(len, spectra)) == ranks[-1]
    assert energy[-1] == 1
    for rank, share in zip(ranks, energy, strict=True):
        held = sum(float(values[:rank].square().sum()) for values in spectra)
        assert share == pytest.approx(held / total if total > 0 else 1, abs=1e-5)


@pytest.mark.parametrize("rank", [1, 2, 16, 128, 129, 1024])
def test_it_is_short(rank: int) -> None:
    """A log line has room for it, whatever the rank; ranks ascend."""
    ranks, energy = curve([torch.linspace(2, 1, rank), torch.ones(1)])
    assert sorted(set(ranks)) == ranks
    assert len(json.dumps([ranks, energy])) < 260
