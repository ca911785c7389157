"""lensd.lora.floats: int8 factors become floats with the same delta weight."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lensd.lora import floats
from lensd.lora.dtypes import TORCH_DTYPE
from tests.lora import making

# Both factors are rounded by at most half a step: 2^-11 for float16, 2^-8 for bfloat16.
ROUNDING = {"F16": 2 * 2**-11, "BF16": 2 * 2**-8}
# Below this number float16's steps get no smaller, and it is no more exact than bfloat16.
NORMAL = 2.0**-14
# From nearly zero to more than float16 can represent.
ALPHAS = st.floats(-20, 8).map(lambda e: 10.0**e)


@given(
    st.integers(1, 12),
    ALPHAS,
    st.one_of(st.none(), st.sampled_from([1.0, 16.0, 0.5, -2.0])),
    st.integers(0, 2**32),
)
def test_the_delta_stays(rank: int, alpha: float, file_alpha: float | None, seed: int) -> None:
    """alpha/rank * up_i8 @ down_i8 = file_alpha/rank * up @ down, up to rounding to 16 bits."""
    random = torch.Generator().manual_seed(seed)
    up = torch.randint(-127, 128, (20, rank), generator=random).to(torch.int8)
    down = torch.randint(-127, 128, (rank, 30), generator=random).to(torch.int8)
    scale = floats.scale_of(alpha, rank, file_alpha)
    dtype = floats.dtype_for(scale)
    new_up, new_down = floats.expand(up, down, scale, TORCH_DTYPE[dtype])
    assert {new_up.dtype, new_down.dtype} == {TORCH_DTYPE[dtype]}
    assert bool(new_up.isfinite().all())
    assert bool(new_down.isfinite().all())
    own = 1.0 if file_alpha is None else file_alpha / rank
    meant = alpha / rank * making.product(up, down)
    found = own * making.product(new_up, new_down)
    coarse = dtype == "BF16" or abs(scale) < NORMAL
    assert making.distance(meant, found) <= ROUNDING["BF16" if coarse else "F16"]


@pytest.mark.parametrize(
    ("scale", "dtype"),
    [(0.0, "BF16"), (1e-7, "BF16"), (1e-6, "F16"), (1.0, "F16"), (511.0, "F16"), (517.0, "BF16")],
)
def test_bfloat16_is_used_only_where_float16_is_worse(scale: float, dtype: str) -> None:
    """bfloat16 has a larger range than float16, but an eighth of its precision."""
    assert floats.dtype_for(scale) == floats.dtype_for(-scale) == dtype


@pytest.mark.parametrize("alpha", [None, 0.0])
def test_no_alpha_means_the_rank(alpha: float | None) -> None:
    """As in kohya's files, delta = up @ down."""
    assert floats.scale_of(alpha, 8, None) == 1.0
