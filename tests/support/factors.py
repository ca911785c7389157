"""Factors of a delta weight of known singular values, split as training splits them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Length of the strongest learned direction of `down` relative to its initial rows, and how much the
# norms of a layer's output channels differ (sigma of a log-normal): as measured on trained files.
LEARNED = 1.5
CHANNEL_SPREAD = 0.35


class Factors(NamedTuple):
    """delta = up @ down, without the alpha/rank scale."""

    up: Tensor  # [out, rank]
    down: Tensor  # [rank, in]


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread inside: several spin against each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def trained(
    spectrum: NDArray[np.float64],
    out_features: int,
    fan_in: int,
    random: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> Factors:
    """Factors whose product has the singular values `spectrum`, to the precision of `dtype`.

    `down` is its kaiming-uniform start plus a learned part along the strongest right directions,
    mixed over all rows by a rotation P. With P^T down = L Q^T (L lower triangular, Q orthonormal)
    the delta U diag(s) Q^T needs up = U diag(s) L^-1 P^T, with U a random orthonormal basis.
    Raises ValueError when there are more singular values than the layer's smaller side.
    """
    rank = len(spectrum)
    if rank > min(out_features, fan_in):
        raise ValueError(f"{rank} singular values do not fit a {out_features} x {fan_in} layer")
    values = torch.from_numpy(spectrum).to(dtype)  # [rank]
    rotation = _orthonormal(_normal(rank, rank, random, dtype))  # P: [rank, rank]
    down = _start(rank, fan_in, random, dtype)
    down += rotation @ _learned(values, fan_in, random, dtype)
    lower = _gram_root(rotation.T @ down)  # L: [rank, rank]
    channels = torch.exp(CHANNEL_SPREAD * _normal(out_features, 1, random, dtype))
    left = _orthonormal(channels * _normal(out_features, rank, random, dtype))  # U: [out, rank]
    core = torch.linalg.solve_triangular(lower, torch.diag(values), upper=False, left=False)
    return Factors(up=left @ (core @ rotation.T), down=down)


def widened(factors: Factors, rank: int, random: torch.Generator) -> Factors:
    """The same delta at a larger `rank`: what a file holds whose rank exceeds a layer's side."""
    inner = factors.down.shape[0]
    mix = _orthonormal(_normal(rank, inner, random, factors.down.dtype))  # [rank, inner]
    return Factors(up=factors.up @ mix.T, down=mix @ factors.down)


def _start(rank: int, fan_in: int, random: torch.Generator, dtype: torch.dtype) -> Tensor:
    bound = 1.0 / math.sqrt(fan_in)  # kaiming_uniform_(a=sqrt(5)), torch's own for a linear layer
    return torch.empty(rank, fan_in, dtype=dtype).uniform_(-bound, bound, generator=random)


def _learned(values: Tensor, fan_in: int, random: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Directions as long as the roots of their singular values: both factors learn alike."""
    start_length = 1.0 / math.sqrt(3.0)  # of a row of `_start`, on average
    lengths = LEARNED * start_length * (values / values.max()).sqrt()  # [rank]
    directions = _normal(len(values), fan_in, random, dtype) / math.sqrt(fan_in)
    return lengths[:, None] * directions


def _normal(rows: int, columns: int, random: torch.Generator, dtype: torch.dtype) -> Tensor:
    return torch.randn(rows, columns, generator=random, dtype=dtype)


def _orthonormal(tall: Tensor) -> Tensor:
    """An orthonormal basis of the columns of `tall`, through its Gram matrix: faster than a QR."""
    upper = _gram_root(tall.T).T
    return torch.linalg.solve_triangular(upper, tall, upper=True, left=False)


def _gram_root(wide: Tensor) -> Tensor:
    """The lower triangular L with L L^T = wide wide^T."""
    exact = wide.double()
    return torch.linalg.cholesky(exact @ exact.T).to(wide.dtype)
