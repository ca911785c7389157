"""Expand an 8-bit file to floats: as a state dict for diffusers, or as a file for every program."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import torch
from safetensors import safe_open
from torch import Tensor

from lensd.engine.readback import as_bytes
from lensd.engine.reader import Source
from lensd.engine.results import Expanded
from lensd.engine.strength import strengths
from lensd.errors import UsageError
from lensd.lora import floats, marks
from lensd.lora.dtypes import TORCH_DTYPE
from lensd.lora.layout import Module
from lensd.lora.metadata import expanded_metadata, float_alpha
from lensd.lora.tensor_spec import ITEM_SIZE
from lensd.store.header import encode_header
from lensd.store.tensors import Output, TensorEntry, offsets


def load_file(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return the float tensors of a LoRA file, in 8 bits or not, by key; see lensd.load_file."""
    with Source.open_any(os.path.realpath(path)) as source:
        expansion = Expansion(source)
        strength_of = strengths(source)
        found = dict(_read_untouched(source))
        for module in source.layout.modules:
            tensors = expansion.tensors(module)
            up, strength = tensors[module.up], strength_of.get(module.name, 1.0)
            if strength != 1:
                tensors[module.up] = (up.double() * strength).to(up.dtype)
            found |= tensors
        return {key: found[key] for key in source.header.tensors if key in found}


def expand(path: str, temporary: str, inode: Sequence[int]) -> Expanded:
    """Expand the 8-bit file `path` into the staged output `temporary`.

    `inode`: device and inode that the temporary must have. Raises UsageError if the file has no
    8-bit modules, and Skipped and Failed as `Source.open` does.
    """
    with Source.open_any(os.path.realpath(path)) as source:
        expanded = sum(source.is_int8(m) or source.is_float8(m) for m in source.layout.modules)
        if not expanded:
            raise UsageError(
                f"there is nothing to expand: {path} has no 8-bit modules, and every program "
                "loads it as it is"
            )
        expansion = Expansion(source)
        metadata = expanded_metadata(source.header.metadata, source.layout, expansion.alpha)
        entries = expansion.entries()
        start = offsets(entries)
        with Output(temporary, inode, len(encode_header(entries, metadata))) as output:
            for module in source.layout.modules:
                for key, tensor in expansion.tensors(module).items():
                    output.write(start[key], [(key, as_bytes(tensor))])
            for key in source.layout.untouched:
                output.copy(start[key], key, source.fd, source.header)
            output.finish(entries, metadata)
            output.sync()
            output.sha256()  # reads the output back, and checks its size and header
            return Expanded(
                bytes_in=source.identity.size,
                bytes_out=output.size,
                modules=len(source.layout.modules),
                expanded=expanded,
            )


class Expansion:
    """The float form of a file, module by module. Modules in floats stay unchanged."""

    def __init__(self, source: Source) -> None:
        """Raise UsageError for an int8 file without lensd's marks."""
        self.source = source
        self.alpha: float | None = None
        self._drops_alpha = source.header.metadata.get(marks.ALPHA) == "none"
        self.scales: dict[str, float] = {}
        quantized = [m for m in source.layout.modules if source.is_int8(m)]
        if quantized:
            self.alpha = _read_file_alpha(source)
            self.scales = {
                m.name: floats.scale_of(source.alpha(m), m.rank, self.alpha) for m in quantized
            }

    def tensors(self, module: Module) -> dict[str, Tensor]:
        """Return up, down and alpha (if the float form has one) of a module, by key."""
        up, down = self.source.tensor(module.up), self.source.tensor(module.down)
        if module.name not in self.scales:
            alpha = {module.alpha: self.source.tensor(module.alpha)} if module.alpha else {}
            if self.source.is_float8(module):  # float16 represents every float8
                up, down = up.half(), down.half()
            if self._drops_alpha and (own := self.source.alpha(module)) is not None:
                alpha, up = {}, (up.double() * (own / module.rank)).to(up.dtype)
            return {module.up: up, module.down: down, **alpha}
        scale = self.scales[module.name]
        up, down = floats.expand(up, down, scale, TORCH_DTYPE[floats.dtype_for(scale)])
        alpha = {}
        if self.alpha is not None:
            alpha = {module.alpha_key: torch.tensor(self.alpha, dtype=torch.float32)}
        return {module.up: up, module.down: down, **alpha}

    def entries(self) -> list[TensorEntry]:
        """Return all tensors of the float file, those with the widest elements first.

        So the data of each tensor begins at a multiple of its element size.
        """
        specs = dict(self.source.specs)
        for m in self.source.layout.modules:
            if self._drops_alpha:
                specs.pop(m.alpha_key, None)
            quantized = m.name in self.scales
            if not quantized and not self.source.is_float8(m):
                continue
            dtype = floats.dtype_for(self.scales[m.name]) if quantized else "F16"
            specs |= {key: specs[key]._replace(dtype=dtype) for key in (m.up, m.down)}
        entries = [(key, spec.dtype, spec.shape) for key, spec in specs.items()]
        return sorted(entries, key=lambda e: (-ITEM_SIZE.get(e[1], 0), e[0]))


def _read_file_alpha(source: Source) -> float | None:
    try:
        return float_alpha(source.header.metadata)
    except (KeyError, ValueError):
        raise UsageError(
            f"{source.path} has int8 modules, but its header lacks lensd's marks, which are needed "
            "to convert them to floats; use the file as lensd wrote it, or its original"
        ) from None


def _read_untouched(source: Source) -> Iterator[tuple[str, Tensor]]:
    """Read the untouched tensors with the safetensors library, which knows every number format."""
    if source.layout.untouched:
        with safe_open(f"/proc/self/fd/{source.fd}", framework="pt") as file:
            for key in source.layout.untouched:
                yield key, file.get_tensor(key).clone()
