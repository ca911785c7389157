"""The singular spectrum of a delta weight, and its truncation, without ever forming it.

For up [m, r] and down [r, n] let Gu = up^T up and Gd = down down^T, both [r, r], and Gu = L L^T.
The singular values of up @ down are the square roots of the eigenvalues of the symmetric matrix
L^T Gd L = W diag(s^2) W^T. With the k leading columns of W and values of s,

    up A   with A = Gd L W s^(-3/2)    [r, k]
    B down with B = s^(-1/2) W^T L^T   [k, r]

are the two halves of the rank-k truncation, singular values split evenly (Eckart and Young, 1936).
No inverse of L occurs, so modules whose factors are rank-deficient need no second way. All of it
is float64: squares of singular values lose half the digits, and a rank is chosen from their sums.

Where the factors are far larger than their product, the squares would lose all of them. Then
up = Q R, down^T = Q' R' and an SVD of R' R^T = P diag(s) W^T give the same (with Gd L W / s =
R'^T P) at some twice the time.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

EPSILON = torch.finfo(torch.float64).eps
# Gram matrices give squared singular values to some EPSILON ||up||^2 ||down||^2. Beyond this ratio
# of that product to the largest square, a cumulative energy could be off by more than 1e-11.
CANCELLATION = 1e4


class Core(NamedTuple):
    """Singular values s [r] of up @ down, descending, float64, and its singular vectors times s.

    up @ left[:, i] and right[:, i] @ down are the left and right vectors, each times s[i]; left is
    zero where s is zero or lost in rounding.
    """

    values: Tensor
    left: Tensor  # [r, r]
    right: Tensor  # [r, r]


def leading(c: Core, columns: int) -> Core:
    """A core with its first singular vectors only, in memory of its own."""
    return Core(c.values, c.left[:, :columns].clone(), c.right[:, :columns].clone())


def core(up: Tensor, down: Tensor) -> Core:
    """Spectrum of up @ down; up [m, r], down [r, n], any float dtype. O((m + n) r^2 + r^3)."""
    up, down = up.double(), down.double()
    gram_up, gram_down = up.T @ up, down @ down.T
    root = square_root(gram_up)
    squares, vectors = torch.linalg.eigh(root.T @ gram_down @ root)
    squares, vectors = squares.flip(-1).clamp_min(0), vectors.flip(-1)
    if bool(gram_up.norm() * gram_down.norm() > CANCELLATION * squares[0]):
        return _careful_core(up, down)
    right = root @ vectors
    # what the eigenproblem leaves of a zero is rounding, of some r EPSILON of the largest square
    lost = squares <= squares[0] * EPSILON * len(squares)
    inverse = squares.rsqrt().masked_fill(lost, 0.0)
    return Core(squares.sqrt(), gram_down @ right * inverse, right)


def square_root(gram: Tensor) -> Tensor:
    """Some L [r, r] with L L^T = gram, for a symmetric positive semidefinite gram [r, r]."""
    lower, info = torch.linalg.cholesky_ex(gram)
    if int(info) == 0:
        return lower
    squares, vectors = torch.linalg.eigh(gram)  # singular: Cholesky meets a pivot of zero
    return vectors * squares.clamp_min(0).sqrt()


def _careful_core(up: Tensor, down: Tensor) -> Core:
    root_up, root_down = _triangle(up), _triangle(down.T)
    outer, values, inner = torch.linalg.svd(root_down @ root_up.T)
    return Core(values, root_down.T @ outer, root_up.T @ inner.T)


def _triangle(tall: Tensor) -> Tensor:
    """R [r, r] of the QR decomposition of tall [m, r], with rows of zeros where m < r."""
    upper = torch.linalg.qr(tall, mode="r").R
    return torch.nn.functional.pad(upper, (0, 0, 0, tall.shape[1] - upper.shape[0]))


def truncation(c: Core, rank: int) -> tuple[Tensor, Tensor]:
    """A [r, k] and B [k, r] such that (up A)(B down) is the best rank-k approximation.

    The core must have `rank` vectors or more. Directions whose singular value is zero (or lost in
    rounding) come out as zeros.
    """
    values = c.values[:rank]
    lost = values <= c.values[0] * EPSILON
    spread = values.rsqrt().masked_fill(lost, 0.0)
    return c.left[:, :rank] * spread, (c.right[:, :rank] * spread).T
