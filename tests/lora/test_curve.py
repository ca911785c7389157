"""lensd.lora.curve: the spectrum of a file as a short curve."""

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
def test_each_point_is_the_energy_in_the_first_ranks(spectra: list[torch.Tensor]) -> None:
    """It equals the sum over all modules; the last rank is the largest and has share 1."""
    ranks, energy = curve(spectra)
    total = sum(float(values.square().sum()) for values in spectra)
    assert max(map(len, spectra)) == ranks[-1]
    assert energy[-1] == 1
    for rank, share in zip(ranks, energy, strict=True):
        energy_of_rank = sum(float(values[:rank].square().sum()) for values in spectra)
        assert share == pytest.approx(energy_of_rank / total if total > 0 else 1, abs=1e-5)


@pytest.mark.parametrize("rank", [1, 2, 16, 128, 129, 1024])
def test_it_is_short(rank: int) -> None:
    """It fits in a log line at any rank, and its ranks ascend."""
    ranks, energy = curve([torch.linspace(2, 1, rank), torch.ones(1)])
    assert sorted(set(ranks)) == ranks
    assert len(json.dumps([ranks, energy])) < 260
