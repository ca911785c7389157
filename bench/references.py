"""Measure references for the same file: a copy, QR and SVD of the factors, SVD of full matrices.

`python -m bench.references WHAT FILE ROUNDS` prints the seconds of each round as JSON. Torch is
loaded and the file is read once before the first round. This module uses no code of lensd.

- `copy`: copy the file and compute its sha256.
- `qr`: for each module, up = Q R, down^T = Q' R' and an SVD of R R'^T; write the ranks that have
  99 % of the energy as float16. Nothing is quantized, measured, hashed or flushed.
- `full`: compute up @ down and its SVD, as kohya's resize_lora.py does (for more than 2048 rows and
  columns only twice the rank, by iteration), for the first module of each shape; extrapolate the
  seconds of all modules from these.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

ENERGY = 0.99
PAIRS = ((".lora_down.weight", ".lora_up.weight"), (".lora_A.weight", ".lora_B.weight"))


def copy(source: Path, folder: Path) -> float | None:
    shutil.copyfile(source, folder / "copy")
    with source.open("rb") as file:
        hashlib.file_digest(file, "sha256").hexdigest()
    return None


def qr(source: Path, folder: Path) -> float | None:
    tensors = {}
    with safe_open(source, framework="pt") as file:
        for down_key, up_key in _pairs(file.keys()):
            up, down = _flat(file.get_tensor(up_key)), _flat(file.get_tensor(down_key))
            left, right = torch.linalg.qr(up), torch.linalg.qr(down.T)
            outer, values, inner = torch.linalg.svd(left.R @ right.R.T)
            k = _rank(values)
            root = values[:k].sqrt()
            tensors[up_key] = (left.Q @ (outer[:, :k] * root)).half()
            tensors[down_key] = ((root[:, None] * inner[:k]) @ right.Q.T).half()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "qr")
    return None


def full(source: Path, _: Path) -> float | None:
    """Return the seconds of all modules, extrapolated from the first module of each shape."""
    seconds = {}
    counts: Counter[tuple[int, int]] = Counter()
    with safe_open(source, framework="pt") as file:
        for down_key, up_key in _pairs(file.keys()):
            up, down = _flat(file.get_tensor(up_key)), _flat(file.get_tensor(down_key))
            shape = len(up), down.shape[1]
            counts[shape] += 1
            if shape not in seconds:
                began = time.perf_counter()
                _rank(_spectrum(up, down))
                seconds[shape] = time.perf_counter() - began
    return sum(seconds[shape] * count for shape, count in counts.items())


def _spectrum(up: Tensor, down: Tensor) -> Tensor:
    whole = up @ down
    if min(whole.shape) > 2048:
        return torch.svd_lowrank(whole, q=min(2 * len(down), *whole.shape), niter=2)[1]
    return torch.linalg.svd(whole).S


WAYS: dict[str, Callable[[Path, Path], float | None]] = {"copy": copy, "qr": qr, "full": full}


def _pairs(keys: Sequence[str]) -> Iterator[tuple[str, str]]:
    for key in keys:
        for down, up in PAIRS:
            if key.endswith(down):
                yield key, key.removesuffix(down) + up


def _flat(factor: Tensor) -> Tensor:
    return factor.float().reshape(len(factor), -1)


def _rank(values: Tensor) -> int:
    energy = values.double().square().cumsum(0)
    return int((energy < ENERGY * energy[-1]).sum()) + 1


def main(arguments: Sequence[str]) -> int:
    way, source, rounds = WAYS[arguments[0]], Path(arguments[1]), int(arguments[2])
    source.read_bytes()  # into the page cache, as for lensd
    found = []
    with tempfile.TemporaryDirectory(prefix="lensd-bench-", dir=source.parent) as folder:
        for _ in range(rounds):
            began = time.perf_counter()
            extrapolated = way(source, Path(folder))
            took = time.perf_counter() - began
            found.append(took if extrapolated is None else extrapolated)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
