"""Key names and shapes -> modules, family, and what is left untouched.

A LoRA module adds `delta = alpha / rank * up @ down` to one weight of the base model. Files spell
the two factors in several namings; NAMINGS is the table of them. Everything is decided from key
names and shapes: metadata is known to lie about both rank and family.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from lensd.errors import Skipped
from lensd.lora.family import family_of

FLOAT_DTYPES = ("F16", "BF16", "F32", "F64")
INTEGER_DTYPES = ("I8", "U8", "I16", "I32", "I64")  # some trainers store alpha so
# Bytes an element; formats below one byte are absent.
ITEM_SIZE = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
}


class TensorSpec(NamedTuple):
    """What a header says of one tensor: dtype in safetensors' spelling, and shape."""

    dtype: str
    shape: tuple[int, ...]


class Naming(NamedTuple):
    """How one family of tools spells a module's two factors and its alpha.

    `end` is the part of the factors' suffix that a module's name needs to be unique.
    """

    name: str
    down: str
    up: str
    alpha: str
    end: str = ""


# The first row whose suffixes match wins, so that a longer suffix stands before a shorter one.
NAMINGS: tuple[Naming, ...] = (
    Naming("kohya", ".lora_down.weight", ".lora_up.weight", ".alpha"),
    Naming("peft", ".lora_A.default.weight", ".lora_B.default.weight", ".alpha"),
    Naming("peft", ".lora_A.weight", ".lora_B.weight", ".alpha"),
    Naming("peft", ".lora_A", ".lora_B", ".alpha"),
    Naming("diffusers", ".lora.down.weight", ".lora.up.weight", ".alpha"),
    Naming("diffusers", "_lora.down.weight", "_lora.up.weight", ".alpha"),
    Naming("diffusers", ".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight", ".alpha"),
    Naming("xlabs", "_lora1.down.weight", "_lora1.up.weight", ".alpha", "_lora1"),
    Naming("xlabs", "_lora2.down.weight", "_lora2.up.weight", ".alpha", "_lora2"),
    Naming("cloneofsimo", ":down", ":up", ":alpha"),
    Naming("homemade", "_lora_down.weight", "_lora_up.weight", ".alpha"),
)

# What stands beside the factors where a program works with up @ down before it scales: A1111 and
# SD.Next compute magnitude * (W + up @ down) / norm, and only then times alpha / rank. They take
# `.scale` in place of alpha / rank.
SCALED_LAST = (
    ".dora_scale",
    ".lora_magnitude_vector",
    ".lora_magnitude_vector.weight",
    ".lora_magnitude_vector.default.weight",
    ".bias_values",
    ".scale",
)
# peft multiplies these with alpha / rank too, which then must not change.
SCALED_TOO = (".lora_B.bias", ".lora_B.default.bias", ".lora_up.bias")
# Where else an alpha might stand. Which program means it is not known: such a pair is not reduced.
ODD_ALPHAS = (".alpha", "_lora.alpha", ".lora.alpha", ".lora_linear_layer.alpha", ".lora_alpha")

# Parts of keys that tell adapters of other kinds, which are not a product of two factors.
OTHER_ADAPTERS: tuple[tuple[str, str], ...] = (
    ("LoHa", ".hada_"),
    ("LoKr", ".lokr_"),
    ("OFT", ".oft_"),
    ("BOFT", ".boft_"),
    ("GLoRA", ".a1.weight"),
    ("GLoRA", ".a2.weight"),
    ("GLoRA", ".b1.weight"),
    ("GLoRA", ".b2.weight"),
    ("IA3", ".on_input"),
    ("Tucker", ".lora_mid"),
)

CHECKPOINT_KEYS = re.compile(
    r"^(model\.diffusion_model\.|first_stage_model\.|cond_stage_model\.|conditioner\.|vae\.|"
    r"(down_blocks|up_blocks|mid_block|double_blocks|single_blocks|transformer_blocks)\.)"
)


@dataclass(frozen=True, slots=True)
class Module:
    """One pair of factors: up [out, r(, 1, 1)], down [r, in(, kh, kw)]."""

    name: str
    naming: Naming
    up: str
    down: str
    alpha: str | None  # the key of its alpha, if the file has one
    up_shape: tuple[int, ...]
    down_shape: tuple[int, ...]
    dtype: str  # of both factors; where they differ the narrowest that holds both
    scaled_last: bool = False  # DoRA: up @ down and alpha / rank must each stay what they are

    @property
    def rank(self) -> int:
        return self.down_shape[0]

    @property
    def out_features(self) -> int:
        return self.up_shape[0]

    @property
    def in_features(self) -> int:
        """Inputs times kernel size: the columns of the flattened delta weight."""
        return prod(self.down_shape[1:])

    @property
    def alpha_key(self) -> str:
        return self.alpha or self.name + self.naming.alpha

    def shapes_at(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of up and down with another rank."""
        up = (self.up_shape[0], rank, *self.up_shape[2:])
        return up, (rank, *self.down_shape[1:])


@dataclass(frozen=True, slots=True)
class Layout:
    """What a file consists of. `untouched` tensors go to the output bit for bit."""

    modules: tuple[Module, ...]
    untouched: tuple[str, ...]
    naming: str
    family: str

    @property
    def dtype(self) -> str:
        """The precision that most modules are stored in."""
        dtypes = [m.dtype for m in self.modules]
        return max(dict.fromkeys(dtypes), key=dtypes.count)


def read_layout(tensors: Mapping[str, TensorSpec]) -> Layout:
    """Find the LoRA modules of a file.

    Raises Skipped (`no_lora`, `checkpoint`, `unsupported_adapter`, `unsupported_dtype`) when there
    is none to reduce.
    """
    pairs = [m for m in (_module(tensors, key) for key in tensors) if m]
    modules = tuple(m for m in pairs if _is_float(tensors, m))
    if not modules:
        raise _why_none(tensors, pairs)
    taken = {key for m in modules for key in (m.up, m.down, m.alpha) if key}
    namings = [m.naming.name for m in modules]
    return Layout(
        modules=modules,
        untouched=tuple(key for key in tensors if key not in taken),
        naming=max(dict.fromkeys(namings), key=namings.count),
        family=family_of((m.name, m.in_features) for m in modules),
    )


def _module(tensors: Mapping[str, TensorSpec], down_key: str) -> Module | None:
    naming = next((n for n in NAMINGS if down_key.endswith(n.down)), None)
    if naming is None:
        return None
    base = down_key.removesuffix(naming.down)
    up_key, name = base + naming.up, base + naming.end
    if up_key not in tensors or base + ".lora_mid.weight" in tensors:
        return None
    up, down = tensors[up_key], tensors[down_key]
    alpha = name + naming.alpha
    if not _is_pair(up.shape, down.shape) or not _may_be_alpha(tensors.get(alpha)):
        return None
    if any(base + odd in tensors for odd in ODD_ALPHAS if base + odd != alpha):
        return None
    beside = SCALED_LAST + (SCALED_TOO if alpha in tensors else ())
    return Module(
        name=name,
        naming=naming,
        up=up_key,
        down=down_key,
        alpha=alpha if alpha in tensors else None,
        up_shape=up.shape,
        down_shape=down.shape,
        dtype=_common_dtype(up.dtype, down.dtype),
        scaled_last=any(base + part in tensors for part in beside),
    )


def _is_pair(up: tuple[int, ...], down: tuple[int, ...]) -> bool:
    """Whether up @ down is the delta weight: the kernel, if any, is all in `down`."""
    if len(up) < 2 or len(up) != len(down) or 0 in up or 0 in down:
        return False
    return up[1] == down[0] and all(size == 1 for size in up[2:])


def _may_be_alpha(tensor: TensorSpec | None) -> bool:
    """Whether it is absent or one number. A module with another alpha is better left untouched."""
    if tensor is None:
        return True
    return prod(tensor.shape) == 1 and tensor.dtype in FLOAT_DTYPES + INTEGER_DTYPES


def _common_dtype(up: str, down: str) -> str:
    if {up, down} == {"F16", "BF16"}:
        return "F32"
    return max(up, down, key=lambda dtype: ITEM_SIZE.get(dtype, 0))


def _is_float(tensors: Mapping[str, TensorSpec], module: Module) -> bool:
    return tensors[module.up].dtype in FLOAT_DTYPES and tensors[module.down].dtype in FLOAT_DTYPES


def _why_none(tensors: Mapping[str, TensorSpec], pairs: list[Module]) -> Skipped:
    if pairs:
        dtypes = ", ".join(sorted({tensors[m.down].dtype for m in pairs}))
        return Skipped(
            "unsupported_dtype",
            f"its LoRA pairs are stored as {dtypes}; lensd reduces float16, bfloat16, float32 and "
            "float64. The file is left as it is",
        )
    for kind, part in OTHER_ADAPTERS:
        if any(part in key for key in tensors):
            return Skipped(
                "unsupported_adapter",
                f"this is a {kind} adapter: its weights are no product of two factors that lensd "
                "could reduce. The file is left as it is",
            )
    if any(CHECKPOINT_KEYS.match(key) for key in tensors):
        return Skipped(
            "checkpoint",
            "this is a whole model (a checkpoint), not a LoRA; move it out of the watched folder "
            "or name it under `exclude`",
        )
    example = f" (the first is {next(iter(tensors))!r})" if tensors else ""
    return Skipped(
        "no_lora",
        f"no pair of LoRA factors was found among {len(tensors)} tensors{example}"
        "; move the file out of the watched folder or name it under `exclude`",
    )
