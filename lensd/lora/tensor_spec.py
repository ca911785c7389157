"""A tensor as the header of a safetensors file describes it."""

from __future__ import annotations

from typing import NamedTuple

FLOAT_DTYPES = ("F16", "BF16", "F32", "F64")
WIDE_DTYPES = ("F32", "F64")
INTEGER_DTYPES = ("I8", "U8", "I16", "I32", "I64")  # some trainers store alpha as an integer
# Bytes per element. Formats with less than one byte per element are absent.
ITEM_SIZE = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
}


class TensorSpec(NamedTuple):
    """One tensor as the header describes it: dtype, as safetensors names it, and shape."""

    dtype: str
    shape: tuple[int, ...]
