"""Do what other programs do with the same file, and measure their seconds and their CPU seconds.

`python -m bench.references FILE` loads torch, reads the file once, and then takes names of the
following from its input, one a line. For each it prints a JSON list: the seconds, and the seconds
of processor time (user and system, all threads). This module uses no code of lensd.

- `copy`: copy the file and compute its sha256.
- `qr`: for each module, up = Q R, down^T = Q' R' and an SVD of R R'^T; write the ranks that have
  99 % of the energy as float16. Nothing is quantized, measured, hashed or flushed.
- `peer`: the method of elias-gaeros/resize_lora: the same QR, QR and SVD, the singular vectors of
  every rank, a score for each singular value, then float16. The score is the value's share of the
  module's largest one (`spn_lora`; others need the base model), and PEER_SHARE has to be exceeded.
- `full`: compute up @ down and its SVD, as kohya's resize_lora.py does (for more than 2048 rows and
  columns only twice the rank, by iteration), for the first module of each shape, in one thread;
  extrapolate the seconds of all modules from these.

`qr` and `peer` compute as many modules at a time as there are cores, each with one thread, as lensd
does: threads within one operation of torch wait for each other in loops that cost CPU time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

ENERGY = 0.99
PEER_SHARE = 0.1
PAIRS = ((".lora_down.weight", ".lora_up.weight"), (".lora_A.weight", ".lora_B.weight"))


class Svd(NamedTuple):
    """up @ down = left_basis @ outer @ diag(values) @ inner @ right_basis^T."""

    left_basis: Tensor  # [m, r]
    outer: Tensor  # [r, r]
    values: Tensor  # [r], descending
    inner: Tensor  # [r, r]
    right_basis: Tensor  # [n, r]


class Cost(NamedTuple):
    seconds: float
    cpu_seconds: float  # user and system, all threads


def copy(source: Path, folder: Path) -> None:
    shutil.copyfile(source, folder / "copy")
    with source.open("rb") as file:
        hashlib.file_digest(file, "sha256").hexdigest()


def qr(source: Path, folder: Path) -> None:
    def reduce(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
        found = _svd(up, down)
        k = _rank(found.values)
        root = found.values[:k].sqrt()
        left = found.left_basis @ (found.outer[:, :k] * root)
        return left, (root[:, None] * found.inner[:k]) @ found.right_basis.T

    _reduce_file(source, folder / "qr", lambda up, down: _halves(*reduce(up, down)))


def peer(source: Path, folder: Path) -> None:
    def decompose(up: Tensor, down: Tensor) -> tuple[Tensor, ...]:
        found = _svd(up, down)
        left, right = found.left_basis @ found.outer, found.inner @ found.right_basis.T
        scores = found.values.log10() - found.values[0].log10()
        return left, found.values, right, scores

    def select(left: Tensor, values: Tensor, right: Tensor, scores: Tensor) -> tuple[Tensor, ...]:
        kept = scores > torch.tensor(PEER_SHARE).log10()
        root = values[kept].sqrt()
        return _halves(left[:, kept] * root, right[kept] * root[:, None])

    # It decomposes all modules before it selects from any.
    _reduce_file(source, folder / "peer", decompose, select)


def full(source: Path, _: Path) -> Cost:
    """Return the cost of all modules, extrapolated from the first module of each shape."""
    costs = {}
    counts: Counter[tuple[int, int]] = Counter()
    with safe_open(source, framework="pt") as file:
        for down_key, up_key in _pairs(file.keys()):
            up, down = _flat(file.get_tensor(up_key)), _flat(file.get_tensor(down_key))
            shape = len(up), down.shape[1]
            counts[shape] += 1
            if shape not in costs:
                costs[shape] = _cost_of(partial(_spectrum, up, down))
    every = [(costs[shape], count) for shape, count in counts.items()]
    return Cost(*(sum(cost[at] * count for cost, count in every) for at in range(2)))


WAYS: dict[str, Callable[[Path, Path], Cost | None]] = {
    "copy": copy,
    "qr": qr,
    "peer": peer,
    "full": full,
}


def _reduce_file(
    source: Path,
    target: Path,
    compute: Callable[[Tensor, Tensor], tuple[Tensor, ...]],
    select: Callable[..., tuple[Tensor, ...]] = lambda *parts: parts,
) -> None:
    """Write what `select` makes of the results of `compute`, up and down of each module."""

    def work(keys: tuple[str, str]) -> tuple[Tensor, ...]:
        down_key, up_key = keys
        return compute(_flat(file.get_tensor(up_key)), _flat(file.get_tensor(down_key)))

    with safe_open(source, framework="pt") as file:
        pairs = list(_pairs(file.keys()))
        cores = len(os.sched_getaffinity(0))
        with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            results = list(pool.map(work, pairs))
    tensors = {}
    for (down_key, up_key), result in zip(pairs, results, strict=True):
        tensors[up_key], tensors[down_key] = select(*result)
    save_file(tensors, target)


def _svd(up: Tensor, down: Tensor) -> Svd:
    left, right = torch.linalg.qr(up), torch.linalg.qr(down.T)
    outer, values, inner = torch.linalg.svd(left.R @ right.R.T)
    return Svd(left.Q, outer, values, inner, right.Q)


def _halves(*factors: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.half().contiguous() for t in factors)


def _spectrum(up: Tensor, down: Tensor) -> Tensor:
    whole = up @ down
    if min(whole.shape) > 2048:
        return torch.svd_lowrank(whole, q=min(2 * len(down), *whole.shape), niter=2)[1]
    return torch.linalg.svd(whole).S


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


def measure(way: str, source: Path, folder: Path) -> Cost:
    found: list[Cost | None] = []
    cost = _cost_of(lambda: found.append(WAYS[way](source, folder)))
    return found[0] or cost


def _cost_of(work: Callable[[], object]) -> Cost:
    began, used = time.perf_counter(), time.process_time()
    work()
    return Cost(time.perf_counter() - began, time.process_time() - used)


def main(arguments: Sequence[str]) -> int:
    torch.set_num_threads(1)
    source = Path(arguments[0])
    source.read_bytes()  # into the page cache, as for lensd
    with tempfile.TemporaryDirectory(prefix="lensd-bench-", dir=source.parent) as folder:
        for line in sys.stdin:
            print(json.dumps(measure(line.strip(), source, Path(folder))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
