"""An original, open for reading: its modules' factors, read with pread and never mapped.

Truncating a file under a mapping is a SIGBUS; under pread it is a short read and an error.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from lensd.errors import Failed, Skipped
from lensd.lora import compress, marks
from lensd.lora.int8 import Factors
from lensd.lora.layout import Layout, Module, TensorSpec, read_layout
from lensd.store.disk_errors import unreadable
from lensd.store.header import Header, read_header
from lensd.store.identity import Identity
from lensd.store.tensors import read_into


@dataclass(slots=True)
class Source:
    """An open original and what its header says."""

    fd: int
    path: str
    identity: Identity
    header: Header
    specs: dict[str, TensorSpec]
    layout: Layout

    @classmethod
    def open(cls, path: str, expected: Sequence[int] | None = None) -> Source:
        """Open a LoRA file; `expected` is the Identity it must have.

        Raises Skipped (no LoRA, lensd's own output, not a regular file, changed) or Failed
        (`unreadable`, `io_error`).
        """
        return cls._open(path, expected, _read_original)

    @classmethod
    def open_any(cls, path: str) -> Source:
        """As `open`, also lensd's own outputs: their int8 pairs are modules like any other."""
        return cls._open(path, None, _read_any)

    @classmethod
    def _open(
        cls, path: str, expected: Sequence[int] | None, read: Callable[[Header], Layout]
    ) -> Source:
        fd = _open(path, is_expected=expected is not None)
        try:
            identity = Identity.of(os.fstat(fd))
            if expected is not None and identity != Identity(*expected):
                raise Skipped("changed", "the file changed before it was read; it starts over")
            header = read_header(fd, identity.size)
            return cls(fd, path, identity, header, _specs(header), read(header))
        except BaseException:
            os.close(fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self.fd)

    def tensor(self, key: str) -> Tensor:
        """One tensor as stored, on the CPU, in memory of its own."""
        return self._stack([key])[0]

    def _stack(self, keys: Sequence[str]) -> Tensor:
        """Tensors of one dtype and shape, one after the other: [b, ...]."""
        spec = self.specs[keys[0]]
        result = torch.empty(len(keys), prod(spec.shape), dtype=compress.TORCH_DTYPE[spec.dtype])
        for row, key in zip(result.view(torch.uint8).numpy(), keys, strict=True):
            read_into(memoryview(row), self.fd, self.header, key)
        return result.reshape(len(keys), *spec.shape)

    def matrices(self, modules: Sequence[Module]) -> Factors:
        """up [b, out, r] and down [b, r, in] of modules alike in shape and dtypes."""
        up, down = self._pairs(modules)
        return Factors(up.flatten(2).reshape(up.shape[:3]), down.flatten(2))

    def _pairs(self, modules: Sequence[Module]) -> tuple[Tensor, Tensor]:
        """up and down as stored, [b, ...], in a dtype that holds both."""
        up, down = self._stack([m.up for m in modules]), self._stack([m.down for m in modules])
        wide = torch.promote_types(up.dtype, down.dtype)
        return up.to(wide), down.to(wide)

    def is_int8(self, module: Module) -> bool:
        return self.specs[module.up].dtype == self.specs[module.down].dtype == "I8"

    def factors(self, module: Module) -> tuple[Tensor, Tensor]:
        """up and down, in a dtype that holds both."""
        up, down = self._pairs([module])
        return up[0], down[0]

    def alpha(self, module: Module) -> float | None:
        return float(self.tensor(module.alpha)) if module.alpha else None

    def unchanged(self) -> bool:
        """Whether nobody wrote to the file since it was opened."""
        return Identity.of(os.fstat(self.fd)) == self.identity


def _specs(header: Header) -> dict[str, TensorSpec]:
    return {k: TensorSpec(t.dtype, t.shape) for k, t in header.tensors.items()}


def _read_original(header: Header) -> Layout:
    if marks.is_output(header.metadata):
        raise Skipped(
            "already_compressed",
            "this file was written by lensd; to compress it with other settings use "
            "`lensd once --redo`, which starts from the original",
        )
    return read_layout(_specs(header))


def _read_any(header: Header) -> Layout:
    """What the pairs are called does not depend on how they are stored: int8 passes as float16."""
    specs = _specs(header)
    return read_layout(
        {k: s._replace(dtype="F16") if s.dtype == "I8" else s for k, s in specs.items()}
    )


def _open(path: str, *, is_expected: bool) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Skipped("vanished", "the file is gone") from None
    except PermissionError:
        raise unreadable() from None
    except OSError as error:
        if is_expected and error.errno in (errno.ELOOP, errno.ENOTDIR):  # it was there just now
            raise Skipped("vanished", "something else has the file's name by now") from None
        if error.errno == errno.ELOOP:
            raise Skipped("symlink", "this is a symbolic link; it is left alone") from None
        raise Failed("io_error", f"the file cannot be opened: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Skipped("not_regular", "this is not a regular file; it is left alone")
    return fd
