"""Singular spectra of delta weights, and their truncations, without ever forming them.

For up [m, r] and down [r, n] let Gu = up^T up and Gd = down down^T, both [r, r], and Gu = L L^T.
The singular values of up @ down are the square roots of the eigenvalues of the symmetric matrix
L^T Gd L = W diag(s^2) W^T. With the k leading columns of W and values of s,

    up A   with A = Gd L W s^(-3/2)    [r, k]
    B down with B = s^(-1/2) W^T L^T   [k, r]

are the two halves of the rank-k truncation, singular values split evenly (Eckart and Young, 1936).
No inverse of L occurs, so modules whose factors are rank-deficient need no second way. `core`
is float64: squares of singular values lose half the digits, and a rank is chosen from their sums.
`quick_core` is float32, and says where that leaves no doubt.

Where the factors are far larger than their product, the squares would lose all of them. Then
up = Q R, down^T = Q' R' and an SVD of R' R^T = P diag(s) W^T give the same (with Gd L W / s =
R'^T P) at some twice the time.

Modules of one shape are worked out side by side, in leading dimensions of every tensor.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lensd.lora.products import gram, product, quick_gram

EPSILON = torch.finfo(torch.float64).eps
# Gram matrices give squared singular values to some EPSILON ||up||^2 ||down||^2. Beyond this ratio
# of that product to the largest square, a cumulative energy could be off by more than 1e-11.
CANCELLATION = 1e4
# An eigenproblem in float32 has some 2e-7 of it; ten times that is allowed for.
FLOAT32_ERROR = 2e-6
# Singular vectors in float32 are good for squares down to this share of the largest.
QUICK_RANGE = 1e-4


class Core(NamedTuple):
    """Singular values s [..., r] of up @ down, descending, float64, and its vectors times s.

    up @ left[:, i] and right[:, i] @ down are the left and right vectors, each times s[i]; left is
    zero where s is zero or lost in rounding.
    """

    values: Tensor
    left: Tensor  # [..., r, k], k = r where nothing else is said
    right: Tensor  # [..., r, k]
    cancellation: Tensor  # [...] ||Gu|| ||Gd|| / ||up @ down||^2: what sums of products lose


def leading(c: Core, columns: int) -> Core:
    """One module's core with its first singular vectors only, in memory of its own."""
    return c._replace(left=c.left[:, :columns].clone(), right=c.right[:, :columns].clone())


def core_bytes(c: Core) -> int:
    """What one module's core takes in memory."""
    return 2 * c.left.numel() * c.left.element_size() + 8 * len(c.values)


def core(up: Tensor, down: Tensor) -> Core:
    """Spectra of up @ down; up [..., m, r], down [..., r, n], any float dtype.

    O((m + n) r^2 + r^3).
    """
    up, down = up.double(), down.double()
    gram_up, gram_down = gram(up.mT), gram(down)
    root = square_root(gram_up)
    squares, vectors = torch.linalg.eigh(product(product(root.mT, gram_down), root))
    squares, vectors = squares.flip(-1).clamp_min(0), vectors.flip(-1)
    right = product(root, vectors)
    # what the eigenproblem leaves of a zero is rounding, of some r EPSILON of the largest square
    lost = squares <= squares[..., :1] * (EPSILON * squares.shape[-1])
    inverse = squares.rsqrt().masked_fill(lost, 0.0)
    factors = _norm(gram_up) * _norm(gram_down)
    left = product(gram_down, right) * inverse[..., None, :]
    found = Core(squares.sqrt(), left, right, factors / squares.sum(-1))
    for at in (factors > CANCELLATION * squares[..., 0]).nonzero().tolist():
        for whole, part in zip(found, _careful_core(up[*at], down[*at]), strict=False):
            whole[*at] = part
    return found


def quick_core(up: Tensor, down: Tensor, energy: float) -> tuple[Core, Tensor]:
    """Spectra of float32 up [b, m, r] and down [b, r, n], solved so; and which of them hold [b].

    Those hold whose smallest rank for `energy` is beyond doubt, and whose truncation at it is exact
    to some 1e-6; their whole energy is so to some 1e-8 times their cancellation. The others may be
    anything. There are only as many vectors as the largest of these ranks wants.
    """
    gram_up, gram_down = quick_gram(up.mT), quick_gram(down)
    total = (gram_up * gram_down).sum((-2, -1))
    gram_up, gram_down = gram_up.float(), gram_down.float()
    root, info = torch.linalg.cholesky_ex(gram_up)
    root = root.where((info == 0)[:, None, None], 0.0)
    squares, vectors = torch.linalg.eigh(product(product(root.mT, gram_down), root))
    squares = squares.flip(-1).clamp_min(0).double()
    squares *= (total / squares.sum(-1))[:, None]
    cancellation = (_norm(gram_up) * _norm(gram_down)).double() / total
    ranks, hold = _quick_ranks(squares, FLOAT32_ERROR * cancellation, energy)
    wanted = int((ranks * hold).amax())
    right = product(root, vectors[:, :, vectors.shape[-1] - wanted :].flip(-1))
    inverse = squares[:, None, :wanted].rsqrt().nan_to_num(0.0, 0.0).float()
    left = product(gram_down, right) * inverse
    return Core(squares.sqrt(), left, right, cancellation), hold


def _quick_ranks(squares: Tensor, margin: Tensor, energy: float) -> tuple[Tensor, Tensor]:
    """The smallest ranks for squares [b, r] in float32's precision, and which are beyond doubt.

    `margin` [b]: how far off a cumulative share of the energy may be.
    """
    shares = squares.cumsum(-1) / squares.sum(-1, keepdim=True)
    below = (shares < energy).sum(-1).clamp_max(shares.shape[-1] - 1)
    last = squares.gather(-1, below[:, None])[:, 0]
    doubtful = ((shares - energy).abs() <= margin[:, None]).any(-1)
    # NaN compares as false
    hold = (margin < (1 - energy) / 100) & (last > QUICK_RANGE * squares[:, 0]) & ~doubtful
    return below + 1, hold


def _norm(matrices: Tensor) -> Tensor:
    return matrices.square().sum((-2, -1)).sqrt()


def square_root(gram: Tensor) -> Tensor:
    """Some L [..., r, r] with L L^T = gram, for symmetric positive semidefinite gram."""
    lower, info = torch.linalg.cholesky_ex(gram)
    for at in info.nonzero().tolist():  # singular: Cholesky meets a pivot of zero
        squares, vectors = torch.linalg.eigh(gram[*at])
        lower[*at] = vectors * squares.clamp_min(0).sqrt()
    return lower


def _careful_core(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A core's values, left and right."""
    root_up, root_down = _triangle(up), _triangle(down.T)
    outer, values, inner = torch.linalg.svd(root_down @ root_up.T)
    return values, root_down.T @ outer, root_up.T @ inner.T


def _triangle(tall: Tensor) -> Tensor:
    """R [r, r] of the QR decomposition of tall [m, r], with rows of zeros where m < r."""
    upper = torch.linalg.qr(tall, mode="r").R
    return torch.nn.functional.pad(upper, (0, 0, 0, tall.shape[1] - upper.shape[0]))


def truncation(c: Core, rank: int) -> tuple[Tensor, Tensor]:
    """A [r, k] and B [k, r] such that (up A)(B down) is one module's best rank-k approximation.

    The core must have `rank` vectors or more. Directions whose singular value is zero (or lost in
    rounding) come out as zeros.
    """
    values = c.values[:rank]
    lost = values <= c.values[0] * EPSILON
    spread = values.rsqrt().masked_fill(lost, 0.0)
    return c.left[:, :rank] * spread, (c.right[:, :rank] * spread).T
