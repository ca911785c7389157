"""What a GPU needs, as far as a machine without one can show it; test_cuda.py has the rest."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lensd.engine import best_device, cuda, task
from lensd.engine.passes import Engine
from lensd.engine.reader import Source
from lensd.lora import compress, int8, products, squared_errors
from lensd.lora.int8 import Factors
from lensd.lora.parameters import Parameters
from lensd.lora.reading import read_modules
from tests.lora import making
from tests.lora.making import Made
from tests.support.realistic import small_lora

FULL = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate`"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR, when calling `cusolverDnXsyevd`"),
)
OTHER = RuntimeError("CUDA error: an illegal memory access was encountered")


@pytest.fixture
def source(tmp_path: Path) -> Any:
    with Source.open(str(small_lora(tmp_path / "a.safetensors").path)) as source:
        yield source


@pytest.mark.parametrize("error", FULL, ids=str)
def test_a_full_gpu_leaves_no_tensors_behind(source: Source, error: RuntimeError) -> None:
    """None, and what the first try had computed is freed before the CPU begins."""
    tensors: list[weakref.ref[Tensor]] = []

    def work(_: Engine) -> Any:
        computed = torch.ones(8)
        tensors.append(weakref.ref(computed))
        raise error

    assert best_device.compute_on_gpu(source, "meta", work, task.no_progress) is None
    error.__traceback__ = None  # the test itself holds the error
    cuda.release_memory()
    assert [tensor() for tensor in tensors] == [None]


def test_another_error_is_no_lack_of_memory(source: Source) -> None:
    """It ends the job."""

    def work(_: Engine) -> Any:
        raise OTHER

    with pytest.raises(RuntimeError, match="illegal memory access"):
        best_device.compute_on_gpu(source, "meta", work, task.no_progress)


def test_tensors_of_all_kinds_share_one_transfer() -> None:
    """Also rows of a larger tensor, one number, and none at all."""
    numbers = torch.randn(5, 7)
    tensors = [
        numbers,
        numbers.half()[:, 1:4],
        numbers.bfloat16().T,
        numbers.to(torch.int8)[2],
        numbers.to(torch.float8_e4m3fn),
        torch.tensor(0.5, dtype=torch.float64),
        torch.empty(0, 3),
    ]
    copies = cuda.join_and_split(tensors, torch.device("cpu"))
    for tensor, copy in zip(tensors, copies, strict=True):
        assert (copy.dtype, copy.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(copy.double(), tensor.double())
    assert all(a is b for a, b in zip(tensors, cuda.to_cpu(tensors), strict=True))


def test_the_largest_product_is_that_of_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """By forming the products, and by numpy's bounds; in one piece and in several."""
    factors = Factors(torch.randn(3, 40, 6), torch.randn(3, 6, 50))
    expected = [int8.largest_product(*factors.module_at(at, 6), 0.0) for at in range(3)]
    for piece in (products.PIECE, 500):
        monkeypatch.setattr(int8, "PIECE", piece)
        assert int8.form_largest_products(factors).tolist() == pytest.approx(expected, rel=1e-6)


class _Reads(TorchDispatchMode):
    """Counts single numbers that are read from tensors: float(t), bool(t), t.item()."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no type for it
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("encoding", "rank"),
    [("F16", 8), ("F16", 64), ("I8", 8), ("F8_E4M3", 8), ("F8_E4M3", 64)],
)
def test_a_large_batch_waits_for_the_device_as_often_as_a_small_one(
    encoding: str, rank: int
) -> None:
    """A GPU stands still whenever a number is read from it, so that is not done by module."""
    assert _count_reads(7, encoding, rank) == _count_reads(2, encoding, rank)


def _count_reads(modules: int, encoding: str, rank: int) -> int:
    """Return how many numbers the second pass reads for one batch."""
    tensors: making.Tensors = {}
    for at in range(modules):
        up, down = making.factors("decaying", 96, 80, rank, at)
        tensors |= making.peft(f"transformer.block.{at}", Made(up.half(), down.half(), None))
    plan = making.plan_of(tensors, Parameters(mode="rank"))
    plans = [replace(m, rank=5, encoding=encoding, alpha=None, same=False) for m in plan.modules]
    found = [making.pair_of(tensors, m.module.up, m.module.down) for m in plans]
    stored = Factors(*map(torch.stack, zip(*found, strict=True)))
    readings = read_modules([m.module for m in plans], *stored, [None] * modules, 0.9)
    cores = [None if r is None else r.core for r in readings]
    with _Reads() as reads:
        prepared = compress.prepare(plans[0], stored)
        reduced = compress.reduce_all(plans, prepared, cores)
        squared_errors.squared_errors(reduced, prepared, cores)
    return reads.count
