"""Round factors to float8 (E4M3FN), in a rotated gauge and with errors that cancel each other.

float8 has 3 bits of mantissa from 2^-6 to 448, and steps of 2^-9 below 2^-6.

Rounding makes an error in proportion to each element. For singular values s, the error of the
factors U sqrt(s) and sqrt(s) V^T is in proportion to sqrt(sum s^2). After the rotation that int8
uses, all columns have a similar size, and the error is in proportion to sum(s) / sqrt(k), which is
never larger.

The columns of rotated factors are not orthogonal, so that one column can cancel a part of the
errors of others. An error E of `up` changes the delta weight by ||E down||^2 = tr(E H E^T) with
H = down down^T. Let H = L L^T (Cholesky). The columns are rounded from the last to the first, each
from

    up[:, j] + sum over i > j of E[:, i] L[i, j] / L[j, j],  E = up - rounded.

Then ||E down||^2 is the sum of the squared rounding errors of each column j times L[j, j]^2, which
is at most H[j, j]. This is Babai's nearest plane algorithm, which GPTQ uses for language models.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from lensd.lora import fidelity
from lensd.lora.fidelity import ElementError
from lensd.lora.int8 import Factors, Floats, rotations_of_ranks
from lensd.lora.products import gram

FLOAT8 = torch.float8_e4m3fn
LARGEST, SMALLEST_NORMAL = 448.0, 2.0**-6
EXPONENT = np.int32(0x7F800000)  # the bits of a float32 that hold its exponent
NORMAL_NOISE = 0.0265  # relative error of normally distributed numbers that are not too small
# Root mean square of the elements from which few lie below 2^-6 and matter there.
GOOD_SIZE = 2.0**-4
# Largest power of two by which the alpha of a file is divided, and largest spectral norm that a
# module's product then has: float16 stays finite for inputs with a norm of up to 1000.
LARGEST_DIVISOR = 64
LARGEST_NORM = 64.0
BLOCK = 32  # rows whose share of the errors before them is computed in one product
DAMPING = 1e-6  # of a metric; 1e-2 costs less than 0.1 % of the gain


class Rounded(NamedTuple):
    """float8 up [m, k] and down [k, n], and what rounding changed.

    `up @ down` approximates the product of the exact factors.
    """

    up: Tensor
    down: Tensor
    squared_noise: float  # ||exact_up @ exact_down - up @ down||_F^2
    elements: ElementError


def round_factors(up: Tensor, down: Tensor, *others: tuple[Tensor, Tensor]) -> Rounded:
    """Round delta = up @ down, for up [m, k] and down [k, n], float32; see `round_all`."""
    pairs = [Factors(f[None], g[None]) for f, g in others]
    return round_all(Factors(up[None], down[None]), [up.shape[1]], *pairs)[0]


def round_all(factors: Factors, ranks: Sequence[int], *others: Factors) -> list[Rounded]:
    """Round b modules, float32, each in the gauge that gives the smallest measured error.

    In module i, the columns of up and the rows of down from ranks[i] on are zero. The candidates
    are the rotated factors, `factors` as they are, and `others`, which have the same product.
    """
    exact = factors.rotated(rotations_of_ranks(ranks, 1, factors.up))
    _balance(exact)
    rounded = _round_in_turn(exact)
    noises = fidelity.squared_roundings(*exact, *rounded).tolist()
    for other in (factors, *others):
        plain = Factors(*map(nearest, other))
        for at, noise in enumerate(fidelity.squared_roundings(*other, *plain).tolist()):
            if not noises[at] <= noise:  # also if noises[at] is NaN
                noises[at] = noise
                for stack, better in zip((*exact, *rounded), (*other, *plain), strict=True):
                    stack[at] = better[at]
    width = exact.up.shape[1] + exact.down.shape[2]
    elements = fidelity.element_errors(zip(exact, rounded, strict=True), [k * width for k in ranks])
    up, down = (t.to(FLOAT8) for t in rounded)
    return [
        Rounded(up[at, :, :k], down[at, :k], noises[at], elements[at]) for at, k in enumerate(ranks)
    ]


def nearest(factor: Tensor) -> Tensor:
    """Return the nearest float8 values as float32; the largest one for what is larger."""
    result = factor.cpu().numpy().copy()
    with np.errstate(invalid="ignore", over="ignore"):
        _round(result)
    return torch.from_numpy(result).to(factor.device)


def _round(numbers: Floats) -> None:
    """Round float32 numbers in place, ties to even.

    Adding and subtracting 1.5 * 2^20 * 2^e rounds a number with the exponent e to 3 bits of
    mantissa, because float32 has 23.
    """
    np.clip(numbers, -LARGEST, LARGEST, out=numbers)
    large = (numbers.view(np.int32) & EXPONENT).view(np.float32)
    large *= np.float32(1.5 * 2**20)
    np.maximum(large, np.float32(1.5 * 2**20 * SMALLEST_NORMAL), out=large)
    numbers += large
    numbers -= large


def _balance(factors: Factors) -> None:
    """Give the elements of both factors of each module the same size, in place."""
    sizes = [t.square().mean((-2, -1), dtype=torch.float64).sqrt() for t in factors]
    balance = (sizes[1] / sizes[0]).sqrt()
    usable = balance.isfinite() & (balance > 0)
    balance = torch.where(usable, balance, 1.0).to(factors.up)[:, None, None]
    factors.up.mul_(balance)
    factors.down.div_(balance)


def _round_in_turn(exact: Factors) -> Factors:
    """Round `down` by the metric of `up`, then `up` by that of the rounded `down`."""
    columns = exact.up.mT.contiguous()
    down = _round_rows(exact.down, gram(columns))
    return Factors(_round_rows(columns, gram(down)).mT, down)


def _round_rows(rows: Tensor, metric: Tensor) -> Tensor:
    """Round the rows of [b, k, n]; the errors E [k, n] of a module weigh tr(E^T metric E)."""
    shares = _shares(metric).numpy()
    exact = rows.cpu().numpy()
    result, errors = exact.copy(), np.zeros_like(exact)
    with np.errstate(invalid="ignore", over="ignore"):
        for end in range(exact.shape[1], 0, -BLOCK):
            start = max(0, end - BLOCK)
            result[:, start:end] += shares[:, start:end, end:] @ errors[:, end:]
            for at in range(end - 1, start - 1, -1):
                row = result[:, at : at + 1]
                row += shares[:, at : at + 1, at + 1 : end] @ errors[:, at + 1 : end]
                _round(row)
                np.subtract(exact[:, at : at + 1], row, out=errors[:, at : at + 1])
    return torch.from_numpy(result).to(rows.device)


def _shares(metric: Tensor) -> Tensor:
    """Return L[i, j] / L[j, j] as [b, j, i], float32, of the Cholesky factors L of the metrics.

    A metric that is singular or not finite gets what makes it definite.
    """
    metric = metric.cpu().double().nan_to_num(0.0, 0.0, 0.0)
    diagonal = metric.diagonal(dim1=-2, dim2=-1)
    diagonal += DAMPING * diagonal.amax(-1, keepdim=True)
    diagonal[diagonal <= torch.finfo(torch.float32).tiny] = 1.0
    lower, failed = torch.linalg.cholesky_ex(metric)
    lower[failed != 0] = torch.eye(metric.shape[-1], dtype=metric.dtype)
    return (lower / lower.diagonal(dim1=-2, dim2=-1)[:, None, :]).mT.float().contiguous()


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Of a product up @ down: means of its singular values, the largest one, and its sides."""

    mean: float
    mean_square: float
    geometric_mean: float  # of values that are at least 1e-9 of the mean
    largest: float
    m: int
    n: int

    @classmethod
    def of(cls, values: Floats, m: int, n: int) -> Self:
        """`values` [k], float64 in falling order: numpy is faster than torch for so few numbers."""
        count, mean = len(values), float(values.sum()) / len(values)
        logarithms = np.log(np.maximum(values, 1e-9 * mean)) if mean > 0 else values
        geometric = math.exp(float(logarithms.sum()) / count) if mean > 0 else 0.0
        return cls(mean, float(values @ values) / count, geometric, float(values[0]), m, n)

    def divided(self, scale: float) -> Self:
        """Return the spectrum of the product divided by `scale`."""
        means = self.mean / scale, self.mean_square / scale**2, self.geometric_mean / scale
        return type(self)(*means, self.largest / scale, self.m, self.n)

    @property
    def element_size(self) -> float:
        """Root mean square of the elements of balanced factors in the rotated gauge."""
        return math.sqrt(self.mean / math.sqrt(self.m * self.n))

    @property
    def expected_noise(self) -> float:
        """The relative error of the delta weight, which `round_all` is likely to give within 5 %.

        Per factor it is the relative rounding error of one element, times what the gauge gains.
        """
        size = self.element_size
        if not size:
            return 0.0
        below = SMALLEST_NORMAL / 8 / math.sqrt(12) / size  # all elements with steps of 2^-9
        each = (max(NORMAL_NOISE, below) + math.hypot(NORMAL_NOISE, below)) / 2
        return each * math.sqrt(2 * self.mean * self.geometric_mean / self.mean_square)


def alpha_divisor(modules: Iterable[Spectrum]) -> int:
    """Return the power of two by which the alpha of a file is divided: its factors grow with that.

    It gives elements GOOD_SIZE in every module, as far as the limits allow.
    """
    needed, allowed = 1.0, float(LARGEST_DIVISOR)
    for spectrum in modules:
        if (size := spectrum.element_size) > 0:
            needed = max(needed, (GOOD_SIZE / size) ** 2)
            allowed = min(allowed, LARGEST_NORM / spectrum.largest)
    power = min(math.ceil(math.log2(needed)), math.floor(math.log2(max(allowed, 1.0))))
    return int(2**power)
