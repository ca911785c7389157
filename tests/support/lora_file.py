"""A LoRA as a .safetensors file: names, order, header and metadata, written as a stream.

It uses neither lensd nor the safetensors library: code under test must not write its own input.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tests.support.architectures import Module, kohya_name, peft_name
from tests.support.factors import Factors

DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}


class Suffixes(NamedTuple):
    """How a trainer spells the tensors of one module."""

    down: str
    up: str
    alpha: str | None


NAMINGS = {
    "kohya": Suffixes(".lora_down.weight", ".lora_up.weight", ".alpha"),
    "peft": Suffixes(".lora_A.weight", ".lora_B.weight", None),
}


class Plan(NamedTuple):
    """A file without its numbers. With `alpha` None the file has no alpha, which means the rank."""

    modules: Sequence[Module]
    naming: str
    rank: int
    alpha: float | None
    dtype: str

    @property
    def precision(self) -> torch.dtype:
        return DTYPES[self.dtype]

    @property
    def scale(self) -> float:
        """alpha/rank as a loader reads it: kohya stores alpha in the precision of the factors."""
        if self.alpha is None:
            return 1.0
        stored = torch.tensor(self.alpha, dtype=torch.float64)
        if NAMINGS[self.naming].alpha:
            stored = stored.to(self.precision)
        return stored.item() / self.rank

    def name(self, module: Module) -> str:
        return kohya_name(module) if self.naming == "kohya" else peft_name(module)

    def in_file_order(self) -> list[Module]:
        return sorted(self.modules, key=self.name)

    def shapes(self, module: Module) -> dict[str, tuple[int, ...]]:
        """Names and shapes of one module's tensors, in the order they lie in the file."""
        name, suffixes = self.name(module), NAMINGS[self.naming]
        shapes: dict[str, tuple[int, ...]] = {}
        if suffixes.alpha and self.alpha is not None:
            shapes[name + suffixes.alpha] = ()
        shapes[name + suffixes.down] = (self.rank, module.in_features, *module.kernel)
        shapes[name + suffixes.up] = (module.out_features, self.rank, *(1 for _ in module.kernel))
        return shapes

    def tensors(self, module: Module, pair: Factors) -> Iterator[Tensor]:
        """The numbers that belong to `shapes`, in its order."""
        if len(self.shapes(module)) == 3:
            yield torch.tensor(self.alpha)
        yield pair.down
        yield pair.up


class Written(NamedTuple):
    size: int
    data_sha256: str


def write(path: Path, plan: Plan, tensors: Iterable[Tensor]) -> Written:
    """Write the header, then `tensors` (in the plan's order) converted to the plan's precision."""
    metadata = _kohya_metadata(plan) if plan.naming == "kohya" else _peft_metadata(plan)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        size = file.write(_header(plan, metadata))
        for tensor in tensors:
            data = _bytes(tensor.to(plan.precision))
            digest.update(data)
            size += file.write(data)
        if "sshs_model_hash" in metadata:
            metadata["sshs_model_hash"] = digest.hexdigest()  # as long as its placeholder
            file.seek(0)
            file.write(_header(plan, metadata))
    return Written(size, digest.hexdigest())


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _header(plan: Plan, metadata: dict[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    for module in plan.in_file_order():
        for name, shape in plan.shapes(module).items():
            end = offset + plan.precision.itemsize * math.prod(shape)
            extent = [offset, end]
            entries[name] = {"dtype": plan.dtype, "shape": shape, "data_offsets": extent}
            offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _kohya_metadata(plan: Plan) -> dict[str, str]:
    tags = {"portrait": 40, "outdoors": 22, "looking at viewer": 18, "night": 7, "rain": 3}
    return {
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": "generated",
        "ss_base_model_version": "sd_v1",
        "ss_network_alpha": str(plan.alpha),
        "ss_network_dim": str(plan.rank),
        "ss_network_module": "networks.lora",
        "ss_output_name": "generated",
        "ss_tag_frequency": json.dumps({"10_subject": tags}),
        "sshs_model_hash": "0" * 64,
    }


def _peft_metadata(plan: Plan) -> dict[str, str]:
    """diffusers' own: the alpha lives here, since peft's namings have no tensor for it."""
    if plan.alpha is None:
        return {"format": "pt"}
    adapter: dict[str, Any] = {}
    for part in sorted({peft_name(module).split(".")[0] for module in plan.modules}):
        adapter |= {f"{part}.r": plan.rank, f"{part}.lora_alpha": plan.alpha}
        adapter |= {f"{part}.rank_pattern": {}, f"{part}.alpha_pattern": {}}
    return {"format": "pt", "lora_adapter_metadata": json.dumps(adapter, sort_keys=True)}
