"""Read the factors of an original's modules, with pread and never through a mapping.

If another program truncates the file, access to a mapping raises SIGBUS and ends the process, while
pread returns fewer bytes, which becomes an error.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Self

import numpy as np
import torch
from torch import Tensor

from lensd.errors import Reason, Skipped
from lensd.lora import marks, zero_alpha
from lensd.lora.composite_layout import Composite
from lensd.lora.dtypes import TORCH_DTYPE
from lensd.lora.float8 import FLOAT8
from lensd.lora.int8 import Factors
from lensd.lora.layout import Layout, Module, read_layout
from lensd.lora.plan import EIGHT_BITS
from lensd.lora.quick_spectrum import NUMPY_DTYPE
from lensd.lora.tensor_spec import ITEM_SIZE, TensorSpec
from lensd.store.fs import open_original
from lensd.store.header import Header, read_header
from lensd.store.identity import Identity
from lensd.store.tensors import read_into


@dataclass(slots=True)
class Source:
    """An open LoRA file with its header and layout."""

    fd: int
    path: str
    identity: Identity
    header: Header
    specs: dict[str, TensorSpec]
    layout: Layout
    _alphas: dict[str, float] = field(default_factory=dict)  # by key

    @classmethod
    def open(cls, path: str, expected: Identity | None = None) -> Source:
        """Open an original; `expected` is the Identity that it must have.

        Raises Skipped (no LoRA, an output of lensd, not a regular file, changed) or Failed
        (`unreadable`, `io_error`).
        """
        return cls._open(path, expected, _original_layout)

    @classmethod
    def open_any(cls, path: str) -> Source:
        """Open an original or an output of lensd.

        Pairs in 8 bits are modules too, and so are LoHa and LoKr in 16 bits.

        Raises as `open` does.
        """
        return cls._open(path, None, _layout_with_8_bits)

    @classmethod
    def _open(
        cls, path: str, expected: Identity | None, find_layout: Callable[[Header], Layout]
    ) -> Source:
        fd = open_original(path, expected)
        try:
            identity = Identity.of(os.fstat(fd))
            header = read_header(fd, identity.size)
            return cls(fd, path, identity, header, _tensor_specs(header), find_layout(header))
        except BaseException:
            os.close(fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def tensor(self, key: str) -> Tensor:
        """Read one tensor as stored, on the CPU; the caller may change it."""
        return self._read_stack([key])[0]

    def _read_stack(self, keys: Sequence[str]) -> Tensor:
        """Read b tensors of one dtype and shape into one tensor [b, ...]."""
        spec = self.specs[keys[0]]
        result = torch.empty(len(keys), prod(spec.shape), dtype=TORCH_DTYPE[spec.dtype])
        for row, key in zip(result.view(torch.uint8).numpy(), keys, strict=True):
            read_into(memoryview(row), self.fd, self.header, key)
        return result.reshape(len(keys), *spec.shape)

    def matrices(self, modules: Sequence[Module]) -> Factors:
        """Read up [b, out, r] and down [b, r, in] of modules with equal shapes and dtypes."""
        up, down = self._read_pairs(modules)
        return Factors(up.flatten(2).reshape(up.shape[:3]), down.flatten(2))

    def _read_pairs(self, modules: Sequence[Module]) -> tuple[Tensor, Tensor]:
        """Read up and down [b, ...] in the stored shapes, in a dtype that represents both."""
        up = self._read_stack([m.up for m in modules])
        down = self._read_stack([m.down for m in modules])
        up, down = (t.half() if t.dtype == FLOAT8 else t for t in (up, down))
        wide = torch.promote_types(up.dtype, down.dtype)
        return up.to(wide), down.to(wide)

    def is_int8(self, module: Module) -> bool:
        return self.specs[module.up].dtype == self.specs[module.down].dtype == "I8"

    def is_float8(self, module: Module) -> bool:
        return self.specs[module.up].dtype == self.specs[module.down].dtype == "F8_E4M3"

    def factors(self, module: Module) -> tuple[Tensor, Tensor]:
        """Read up and down of one module, in a dtype that represents both."""
        up, down = self._read_pairs([module])
        return up[0], down[0]

    def parts(self, module: Composite) -> dict[str, Tensor]:
        """Read the tensors of one module, by part."""
        return {part: self.tensor(key) for part, key in module.parts}

    def alpha(self, module: Module | Composite) -> float | None:
        """Read the alpha of a module, once; None if it has none."""
        if module.alpha is None:
            return None
        if module.alpha not in self._alphas:
            self._alphas[module.alpha] = self._number(module.alpha)
        return self._alphas[module.alpha]

    def _number(self, key: str) -> float:
        """Read a tensor of one element."""
        dtype = self.specs[key].dtype
        if dtype == "BF16" or dtype not in NUMPY_DTYPE:  # numpy has no bfloat16
            return float(self.tensor(key))
        data = bytearray(ITEM_SIZE[dtype])
        read_into(memoryview(data), self.fd, self.header, key)
        return float(np.frombuffer(data, NUMPY_DTYPE[dtype])[0])

    def leave_alpha_zero(self) -> None:
        """Count modules with alpha 0 among the untouched tensors. Raises Skipped(`alpha_zero`)."""
        alphas = {m.name: self.alpha(m) for m in self.layout.modules}
        self.layout = zero_alpha.leave_untouched(self.layout, alphas)

    def unchanged(self) -> bool:
        """Whether size, times and inode of the file are still those that it was opened with."""
        return Identity.of(os.fstat(self.fd)) == self.identity


def _tensor_specs(header: Header) -> dict[str, TensorSpec]:
    return {k: TensorSpec(t.dtype, t.shape) for k, t in header.tensors.items()}


def _original_layout(header: Header) -> Layout:
    if marks.is_output(header.metadata):
        raise Skipped(
            Reason.ALREADY_COMPRESSED,
            "lensd wrote this file; to compress it with other settings use `lensd once --redo`, "
            "which starts from the original",
        )
    return read_layout(_tensor_specs(header))


def _layout_with_8_bits(header: Header) -> Layout:
    """Return the layout with 8-bit pairs as modules.

    `read_layout` accepts only wider floats, so 8 bits are passed to it as float16.
    """
    specs = _tensor_specs(header)
    return read_layout(
        {k: s._replace(dtype="F16") if s.dtype in EIGHT_BITS else s for k, s in specs.items()},
        also_small=True,
    )
