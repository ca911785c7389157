"""lensd.engine.reducing on bytes that another program wrote after the first pass."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lensd.engine import reducing
from lensd.errors import FileError
from lensd.lora.int8 import Factors
from lensd.lora.parameters import Parameters
from lensd.lora.reading import read_module
from tests.lora import making
from tests.lora.making import Made
from tests.support.suites import examples

# The bytes that replace a number: NaN, the infinities of float16 and bfloat16, 0, -0, a large one.
NUMBERS = st.sampled_from(["7f7f", "007c", "807f", "0000", "0080", "ff7b"]).map(bytes.fromhex)


def overwrite(tensor: Tensor, number: bytes, share: float) -> Tensor:
    """Return the tensor with its last elements, up to all, replaced by one number's bytes."""
    data = bytearray(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    start = round(tensor.numel() * (1 - share)) * tensor.itemsize
    data[start:] = (number * len(data))[: len(data) - start]
    return torch.frombuffer(data, dtype=tensor.dtype).reshape(tensor.shape)


@examples(200)
@given(
    st.sampled_from(["F16", "BF16", "I8", "F8_E4M3"]),
    st.sampled_from([1, 3, 8]),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32]),
    st.sampled_from([0.0, 1e-30, 1.0]),
    st.tuples(NUMBERS, NUMBERS),
    st.tuples(st.sampled_from([0.0, 0.3, 1.0]), st.sampled_from([0.0, 0.3, 1.0])),
    st.booleans(),
)
def test_no_number_of_rewritten_bytes_is_warned_about(
    encoding: str,
    rank: int,
    dtype: torch.dtype,
    size: float,
    numbers: tuple[bytes, bytes],
    shares: tuple[float, float],
    kept: bool,  # noqa: FBT001
) -> None:
    """Any result will do, and any error of bad numbers; pytest fails on a warning.

    `kept`: the engine kept the core of the first pass.
    """
    up, down = making.factors("decaying", 40, 24, 8, 0)
    made = Made((size * up).to(dtype), down.to(dtype), 4.0)
    (found,) = making.plan_of(making.kohya("lora_unet_a", made), Parameters(mode="rank")).modules
    plan = replace(found, rank=rank, encoding=encoding, alpha=None, same=False)
    stored = Factors(
        overwrite(made.up, numbers[0], shares[0])[None],
        overwrite(made.down, numbers[1], shares[1])[None],
    )
    first = read_module(plan.module, made.up, made.down, 4.0)
    core = first.core if first and kept else None
    with contextlib.suppress(FileError, RuntimeError, ArithmeticError, ValueError):
        reducing.reduce_batch([plan], stored, [core])
