"""Read the output back from the disk: its header with the safetensors library, and every byte."""

from __future__ import annotations

from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lensd.errors import Failed, Reason
from lensd.lora.plan import Plan
from lensd.lora.tensor_spec import TensorSpec
from lensd.store.tensors import Output
from lensd.worker.protocol import ReportProgress


def verify(output: Output, plan: Plan, progress: ReportProgress) -> None:
    """Raise Failed(`verify_failed`) if a tensor differs from the plan or from what was written."""
    try:
        with safe_open(output.reading_path, framework="pt") as file:
            _check_shapes(plan, {name: _spec(file, name) for name in file.keys()})  # noqa: SIM118
    except SafetensorError as error:
        raise Failed(Reason.VERIFY_FAILED, f"the output cannot be read back: {error}") from None
    of = len(plan.tensors)
    differs = output.first_difference(lambda done: progress("verify", done, of))
    if differs is not None:
        raise Failed(
            Reason.VERIFY_FAILED,
            f"the tensor {differs}, read back from the disk, differs from what was written; the "
            "original was not replaced. Check that disk",
        )


def as_bytes(tensor: Tensor) -> memoryview:
    """Return the little-endian bytes of a tensor, as safetensors stores them."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def _spec(file: Any, name: str) -> TensorSpec:
    """What an open safetensors file says of a tensor, without its bytes."""
    tensor = file.get_slice(name)
    return TensorSpec(tensor.get_dtype(), tuple(tensor.get_shape()))


def _check_shapes(plan: Plan, found: dict[str, TensorSpec]) -> None:
    """Compare the tensors of the output with the plan."""
    for key, spec in plan.tensors:
        if found.pop(key, None) != spec:
            raise Failed(
                Reason.VERIFY_FAILED,
                f"the tensor {key} of the output, read back from the disk, is missing or has "
                "not the planned type and shape; the original was not replaced. Check that disk",
            )
    if found:
        raise Failed(
            Reason.VERIFY_FAILED,
            f"the output, read back from the disk, has a tensor that was not planned: "
            f"{next(iter(found))}; the original was not replaced. Check that disk",
        )
