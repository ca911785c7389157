"""An int8 file's float meaning: as a state dict for diffusers, or as a file for every program."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from lensd.engine.readback import as_bytes
from lensd.engine.reader import Source
from lensd.engine.strength import strengths
from lensd.errors import UsageError
from lensd.lora import floats
from lensd.lora.compress import TORCH_DTYPE
from lensd.lora.layout import ITEM_SIZE, Module
from lensd.lora.metadata import expanded_metadata, float_alpha
from lensd.store.tensors import Output, TensorEntry


def load_file(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Float tensors of a LoRA file, int8 or not, by key; see lensd.load_file."""
    with Source.open_any(os.path.realpath(path)) as source:
        expansion = Expansion(source)
        strength_of = strengths(source)
        found = dict(_untouched(source))
        for module in source.layout.modules:
            tensors = expansion.tensors(module)
            up, strength = tensors[module.up], strength_of.get(module.name, 1.0)
            if strength != 1:
                tensors[module.up] = (up.double() * strength).to(up.dtype)
            found |= tensors
        return {key: found[key] for key in source.header.tensors if key in found}


def expand(path: str, temporary: str, inode: Sequence[int]) -> dict[str, Any]:
    """Fill the staged output `temporary` with the float meaning of an int8 file.

    Raises UsageError where there is nothing to expand, Skipped and Failed as reading does.
    """
    with Source.open_any(os.path.realpath(path)) as source:
        if not any(source.is_int8(m) for m in source.layout.modules):
            raise UsageError(
                f"there is nothing to expand: {path} holds floats already, which every program "
                "loads as they are"
            )
        expansion = Expansion(source)
        metadata = expanded_metadata(source.header.metadata, source.layout, expansion.alpha)
        with Output(temporary, inode, expansion.entries(), metadata) as output:
            for module in source.layout.modules:
                for key, tensor in expansion.tensors(module).items():
                    output.write(key, as_bytes(tensor))
            for key in source.layout.untouched:
                output.copy(key, source.fd, source.header)
            output.sync()
            digest = output.hashes().file
            return {
                "bytes_in": source.identity.size,
                "bytes_out": output.size,
                "modules": len(source.layout.modules),
                "expanded": sum(source.is_int8(m) for m in source.layout.modules),
                "sha256_out": digest,
            }


class Expansion:
    """Module by module: what an int8 file's float form holds. Float modules are what they are."""

    def __init__(self, source: Source) -> None:
        """Raises UsageError for an int8 file that lacks lensd's marks."""
        self.source = source
        self.alpha: float | None = None
        self.scales: dict[str, float] = {}
        quantized = [m for m in source.layout.modules if source.is_int8(m)]
        if quantized:
            self.alpha = _file_alpha(source)
            self.scales = {
                m.name: floats.scale_of(source.alpha(m), m.rank, self.alpha) for m in quantized
            }

    def tensors(self, module: Module) -> dict[str, Tensor]:
        """up, down and alpha (where there is one), by key."""
        up, down = self.source.tensor(module.up), self.source.tensor(module.down)
        if module.name not in self.scales:
            alpha = {module.alpha: self.source.tensor(module.alpha)} if module.alpha else {}
            return {module.up: up, module.down: down, **alpha}
        scale = self.scales[module.name]
        up, down = floats.expand(up, down, scale, TORCH_DTYPE[floats.dtype_for(scale)])
        alpha = {}
        if self.alpha is not None:
            alpha = {module.alpha_key: torch.tensor(self.alpha, dtype=torch.float32)}
        return {module.up: up, module.down: down, **alpha}

    def entries(self) -> list[TensorEntry]:
        """All tensors of the float file, wide items first, so that each is aligned to its item."""
        specs = dict(self.source.specs)
        for m in self.source.layout.modules:
            if m.name not in self.scales:
                continue
            dtype = floats.dtype_for(self.scales[m.name])
            specs |= {key: specs[key]._replace(dtype=dtype) for key in (m.up, m.down)}
            if self.alpha is None:
                specs.pop(m.alpha_key, None)
        entries = [(key, spec.dtype, spec.shape) for key, spec in specs.items()]
        return sorted(entries, key=lambda e: (-ITEM_SIZE.get(e[1], 0), e[0]))


def _file_alpha(source: Source) -> float | None:
    try:
        return float_alpha(source.header.metadata)
    except (KeyError, ValueError):
        raise UsageError(
            f"{source.path} holds int8 pairs without lensd's marks in its header, which say how "
            "they become floats; take the file as lensd wrote it, or its original"
        ) from None


def _untouched(source: Source) -> Iterator[tuple[str, Tensor]]:
    """By the safetensors library, which knows every format; pairs alone are read with pread."""
    if source.layout.untouched:
        with safe_open(f"/proc/self/fd/{source.fd}", framework="pt") as file:
            for key in source.layout.untouched:
                yield key, file.get_tensor(key).clone()
