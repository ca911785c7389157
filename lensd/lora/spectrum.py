"""Compute singular spectra and truncations of delta weights without forming these.

For up [m, r] and down [r, n] let Gu = up^T up and Gd = down down^T, both [r, r], and Gu = L L^T.
The singular values of up @ down are the square roots of the eigenvalues of the symmetric matrix
L^T Gd L = W diag(s^2) W^T. With the k leading columns of W and values of s,

    up A   with A = Gd L W s^(-3/2)    [r, k]
    B down with B = s^(-1/2) W^T L^T   [k, r]

are the two factors of the best approximation of rank k (Eckart and Young, 1936), both with the
square roots of the singular values. No inverse of L occurs, so factors of deficient rank need no
special treatment. `core` computes in float64: squaring singular values loses half of their digits,
and the rank depends on sums of these squares. `quick_core` computes in float32, and returns which
of its results are certain.

Where the factors are far larger than their product, the squares lose all digits. Then the QR
decompositions up = Q R and down^T = Q' R' and the SVD R' R^T = P diag(s) W^T give the same result,
with Gd L W / s = R'^T P, in about twice the time.

Modules of one shape are computed together, in the leading dimensions of every tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lensd.lora.products import PIECE, exact_gram, product, quick_gram

EPSILON = torch.finfo(torch.float64).eps
# Gram matrices give squared singular values with an error of about EPSILON ||up||^2 ||down||^2. If
# the ratio of ||up||^2 ||down||^2 to the largest square exceeds this limit, a cumulative energy
# could be wrong by more than 1e-11.
CANCELLATION = 1e4
# Assumed relative error of an eigenproblem in float32: ten times the error that is typical.
FLOAT32_ERROR = 2e-6
# Singular vectors in float32 are exact enough if the square of their singular value is at least
# this share of the largest square.
QUICK_RANGE = 1e-4


class Core(NamedTuple):
    """Singular values s of up @ down, and its singular vectors times s.

    up @ left[:, i] and right[:, i] @ down are the i-th left and right singular vector, each times
    s[i]. left[:, i] is zero if s[i] is zero or smaller than the rounding error.
    """

    values: Tensor  # s [..., r], descending, float64
    left: Tensor  # [..., r, k] with k = r, or fewer vectors from `quick_core` and `leading`
    right: Tensor  # [..., r, k]
    # ||Gu|| ||Gd|| / ||up @ down||^2 [...]: the factor by which cancellation enlarges the relative
    # rounding error of sums of products
    cancellation: Tensor


def leading(cores: Sequence[Core], columns: int) -> list[Core]:
    """Copy the cores of modules of one shape, with only their first singular vectors."""
    if not cores:
        return []
    parts = [[v[:, :columns] for v in vectors] for _, *vectors, _ in cores]
    left, right = (torch.stack(column) for column in zip(*parts, strict=True))
    every = zip(cores, left.unbind(), right.unbind(), strict=True)
    return [core._replace(left=u, right=v) for core, u, v in every]


def core_bytes(c: Core) -> int:
    """Return the bytes of memory that the core of one module takes."""
    return 2 * c.left.numel() * c.left.element_size() + 8 * len(c.values)


def core(up: Tensor, down: Tensor) -> Core:
    """Compute the cores of up @ down for up [..., m, r], down [..., r, n], any float dtype.

    Takes O((m + n) r^2 + r^3) time.
    """
    result, doubtful = _core_by_grams(exact_gram(up.mT), exact_gram(down))
    for at in doubtful.nonzero().tolist():
        for stack, matrix in zip(result, _core_by_qr(up[*at], down[*at]), strict=False):
            stack[*at] = matrix
    return result


def _core_by_grams(gram_up: Tensor, gram_down: Tensor) -> tuple[Core, Tensor]:
    """Return the cores, and for which modules [...] the squares lost too many digits."""
    root = square_root(gram_up)
    squares, vectors = torch.linalg.eigh(product(product(root.mT, gram_down), root))
    squares, vectors = squares.flip(-1).clamp_min(0), vectors.flip(-1)
    right = product(root, vectors)
    # The eigenproblem returns a zero as a number of up to about r EPSILON times the largest square.
    lost = squares <= squares[..., :1] * (EPSILON * squares.shape[-1])
    inverse = squares.rsqrt().masked_fill(lost, 0.0)
    factors = _norm(gram_up) * _norm(gram_down)
    left = product(gram_down, right) * inverse[..., None, :]
    result = Core(squares.sqrt(), left, right, factors / squares.sum(-1))
    return result, factors > CANCELLATION * squares[..., 0]


def quick_core(up: Tensor, down: Tensor, energy: float) -> tuple[Core, Tensor]:
    """Compute the cores of up [b, m, r] and down [b, r, n] in float32, and which are certain [b].

    For a core that is certain, the smallest rank for the share `energy` is correct, the truncation
    at that rank is exact to about 1e-6, and the whole energy is exact to about 1e-8 times the
    core's cancellation. A core that is not certain may be arbitrarily wrong. The cores have only as
    many singular vectors as the largest of these ranks needs.
    """
    gram_up, gram_down = quick_gram(up.mT), quick_gram(down)
    total = torch.linalg.vecdot(gram_up.flatten(1), gram_down.flatten(1))
    gram_up, gram_down = gram_up.float(), gram_down.float()
    root, info = torch.linalg.cholesky_ex(gram_up)
    if info.any():
        root = root.where((info == 0)[:, None, None], 0.0)
    squares, vectors = torch.linalg.eigh(product(product(root.mT, gram_down), root))
    squares = squares.flip(-1).clamp_min(0).double()
    squares *= (total / squares.sum(-1))[:, None]
    cancellation = (_norm(gram_up) * _norm(gram_down)).double() / total
    ranks, certain = _ranks_and_certainty(squares, FLOAT32_ERROR * cancellation, energy)
    count = int((ranks * certain).amax())
    right = product(root, vectors[:, :, vectors.shape[-1] - count :].flip(-1))
    inverse = squares[:, None, :count].rsqrt().nan_to_num(0.0, 0.0).float()
    left = product(gram_down, right) * inverse
    return Core(squares.sqrt(), left, right, cancellation), certain


def _ranks_and_certainty(squares: Tensor, margin: Tensor, energy: float) -> tuple[Tensor, Tensor]:
    """Return the smallest ranks [b] for squares [b, r] of float32's precision; which are certain.

    `margin` [b]: the largest possible error of a cumulative share of the energy.
    """
    shares = squares.cumsum(-1) / squares.sum(-1, keepdim=True)
    below = (shares < energy).sum(-1).clamp_max(shares.shape[-1] - 1)
    last = squares.gather(-1, below[:, None])[:, 0]
    doubtful = ((shares - energy).abs() <= margin[:, None]).any(-1)
    # Comparisons with NaN are false, so a core with NaN is not certain.
    certain = (margin < (1 - energy) / 100) & (last > QUICK_RANGE * squares[:, 0]) & ~doubtful
    return below + 1, certain


def _norm(matrices: Tensor) -> Tensor:
    return torch.linalg.vector_norm(matrices, dim=(-2, -1))


def square_root(gram: Tensor) -> Tensor:
    """Return a matrix L [..., r, r] with L L^T = gram, for symmetric positive semidefinite gram."""
    lower, info = torch.linalg.cholesky_ex(gram)
    for at in info.nonzero().tolist():  # Cholesky fails at a pivot of 0: the matrix is singular
        squares, vectors = torch.linalg.eigh(gram[*at])
        lower[*at] = vectors * squares.clamp_min(0).sqrt()
    return lower


def _core_by_qr(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return values, left and right of the core of one module, by QR decompositions and an SVD."""
    root_up, root_down = _qr_triangle(up), _qr_triangle(down.T)
    outer, values, inner = torch.linalg.svd(root_down @ root_up.T)
    return values, root_down.T @ outer, root_up.T @ inner.T


def _qr_triangle(tall: Tensor) -> Tensor:
    """Return R [r, r] of the QR decomposition of tall [m, r]; its last rows are zero if m < r.

    A tall matrix is decomposed some rows at a time, each time below the triangle of those before.
    """
    rank = tall.shape[1]
    upper = tall.new_zeros(0, rank, dtype=torch.float64)
    for rows in tall.split(max(rank, PIECE // rank)):
        upper = torch.linalg.qr(torch.cat([upper, rows.double()]), mode="r").R
    return torch.nn.functional.pad(upper, (0, 0, 0, rank - upper.shape[0]))


def truncation(c: Core, rank: int) -> tuple[Tensor, Tensor]:
    """Return `truncations` of one module: A [r, k] and B [k, r]."""
    left, right = truncations([c], [rank], [1.0])
    return left[0], right[0]


def truncations(
    cores: Sequence[Core],
    ranks: Sequence[int],
    scales: Sequence[float],
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    """Return A [b, r, k] and B [b, k, r]: (up A)(B down) approximates scale up @ down best.

    `cores` are those of b modules, with at least as many singular vectors as their ranks. k is the
    largest rank. Columns of A and rows of B are zero from a module's rank on, and if their singular
    value is zero or smaller than the rounding error.
    """
    size = max(ranks)
    left = _stack_columns([c.left for c in cores], size, dtype)
    right = _stack_columns([c.right for c in cores], size, dtype)
    values = torch.stack([c.values for c in cores])
    leading = values[:, :size]
    beyond = torch.arange(size, device=values.device) >= values.new_tensor(ranks)[:, None]
    lost = (leading <= values[:, :1] * EPSILON) | beyond
    scale = values.new_tensor(scales)[:, None]
    spread = leading.rsqrt().masked_fill(lost, 0.0) * scale.abs().sqrt()
    left *= (spread * scale.sign())[:, None].to(dtype)
    right *= spread[:, None].to(dtype)
    return left, right.mT


def _stack_columns(vectors: Sequence[Tensor], count: int, dtype: torch.dtype) -> Tensor:
    """Return [b, r, count]: the first columns of each, with zeros after its last one."""
    if len({v.dtype for v in vectors}) == 1 and min(v.shape[1] for v in vectors) >= count:
        return torch.stack([v[:, :count] for v in vectors]).to(dtype)
    result = torch.zeros(
        len(vectors), len(vectors[0]), count, dtype=dtype, device=vectors[0].device
    )
    for row, found in zip(result, vectors, strict=True):
        row[:, : found.shape[1]] = found[:, :count]
    return result
