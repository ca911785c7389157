"""The rank that a module needs, by numpy alone: for the plan of `once`, which must not load torch.

It is exact to about seven digits of the energy, which is enough for an estimate.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# bfloat16 as the whole numbers of its bits
NUMPY_DTYPE = {"F16": np.float16, "BF16": np.uint16, "F32": np.float32, "F64": np.float64}


def to_matrix(data: bytearray, dtype: str, rows: int) -> NDArray[np.float64]:
    """The bytes of a tensor as a matrix [rows, ...]. `dtype`: as safetensors names it."""
    stored: NDArray[Any] = np.frombuffer(data, NUMPY_DTYPE[dtype])
    if dtype == "BF16":
        stored = (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float64).reshape(rows, -1)


def kept_rank(up: NDArray[np.float64], down: NDArray[np.float64], energy: float) -> int | None:
    """The smallest rank that keeps `energy` of up [out, r] @ down [r, in]; at least 1.

    None if a number is not finite.
    """
    if not (np.isfinite(up).all() and np.isfinite(down).all()):
        return None
    values, vectors = np.linalg.eigh(up.T @ up)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    squares = np.linalg.eigvalsh(root.T @ (down @ down.T) @ root)[::-1]
    kept = np.cumsum(np.maximum(squares, 0.0))
    if kept[-1] <= 0:
        return 1
    return min(int(np.searchsorted(kept, energy * kept[-1])) + 1, up.shape[1])
