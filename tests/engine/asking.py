"""Make requests to the worker's tasks for real files, and read the files that these write."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from lensd.engine import task
from lensd.lora.parameters import Parameters
from lensd.store.identity import Identity
from lensd.worker.request import AnalyzeRequest, CompressRequest
from tests.lora import making

Numbers = dict[str, Any]
MODES = ("rank", "int8", "ultra")


def analysis(path: Path, *, device: str = "cpu", **parameters: Any) -> AnalyzeRequest:
    """Return the daemon's request for `path`, with these parameters in place of the defaults."""
    return AnalyzeRequest(
        path=str(path),
        name=path.name,
        identity=Identity.of(path.stat()),
        parameters=Parameters(**parameters),
        device=device,
    )


def output(
    path: Path,
    at: Path,
    *,
    min_saving: float = 0.0,
    max_error: float | None = None,
    device: str = "cpu",
    job_id: str | None = None,
    adapter_config: bool = False,
    **parameters: Any,
) -> CompressRequest:
    """Return the request for an output into a new, empty temporary at `at`."""
    at.unlink(missing_ok=True)
    at.touch()
    return CompressRequest(
        job_id=job_id,
        path=str(path),
        name=path.name,
        identity=Identity.of(path.stat()),
        parameters=Parameters(**parameters),
        device=device,
        temporary=os.fspath(at),
        temporary_inode=(at.stat().st_dev, at.stat().st_ino),
        min_saving=min_saving,
        max_error=max_error,
        adapter_config=adapter_config,
    )


def compress(path: Path, at: Path, **options: Any) -> Numbers:
    """Compress the file `path` into `at`; return the measures as JSON has them."""
    numbers: Numbers = msgspec.to_builtins(task.compress(output(path, at, **options)))
    return numbers


def deltas(path: Path) -> dict[str, Tensor]:
    """Return the delta weights, from the safetensors library and full float64 products alone."""
    return making.meaning(load_file(path))


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def rank_of(path: Path) -> dict[str, int]:
    """Return module name -> rank of its tensors."""
    suffixes = tuple(making.PAIRS)
    tensors = load_file(path)
    return {
        key.removesuffix(s): t.shape[0]
        for key, t in tensors.items()
        for s in suffixes
        if key.endswith(s)
    }


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
