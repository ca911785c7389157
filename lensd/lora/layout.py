"""Find the modules of a file, the family of its base model, and the tensors to leave untouched.

A LoRA module adds `delta = alpha / rank * up @ down` to one weight of the base model. Tools name
the keys of the two factors differently; NAMINGS is the table of these namings. Only key names and
shapes are used: the file's metadata is often wrong about both rank and family.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from lensd.errors import Reason, Skipped
from lensd.lora.composite_layout import Composite, find_composites
from lensd.lora.family import family_of
from lensd.lora.tensor_spec import FLOAT_DTYPES, INTEGER_DTYPES, ITEM_SIZE, TensorSpec


class Naming(NamedTuple):
    """The key suffixes that one family of tools gives to the factors and the alpha of a module.

    `end` is the part of the factors' suffix that belongs to the module's name, to keep it unique.
    With `numbered`, they are prefixes before a number.
    """

    name: str
    down: str
    up: str
    alpha: str
    end: str = ""
    numbered: bool = False
    keeps_dtype: bool = False  # its program uses the tensors as stored, and needs their dtype

    def base(self, key: str, part: str) -> str | None:
        """Return the key without `part`; None if it has not this suffix or prefix."""
        if self.numbered:
            rest = key.removeprefix(part)
            return rest if rest != key and rest.isdecimal() else None
        return key.removesuffix(part) if key.endswith(part) else None

    def key(self, base: str, part: str) -> str:
        return part + base if self.numbered else base + part


# The first row whose suffixes match decides, so a longer suffix stands before a shorter one.
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
    # Sam_LoRA and LoRA-ViT replace parameters of the model by the tensors of the file. Beside
    # float32 activations torch refuses weights of another dtype.
    Naming("samlora", "w_a_", "w_b_", ".alpha", "w_", numbered=True, keeps_dtype=True),
)

_DOWN_ENDS = tuple(n.down for n in NAMINGS if not n.numbered)
_DOWN_BEGINNINGS = tuple(n.down for n in NAMINGS if n.numbered)

# Keys beside the factors that make a program use up @ down before it applies the scale: A1111 and
# SD.Next compute magnitude * (W + up @ down) / norm first, and multiply by alpha / rank then. They
# use `.scale` in place of alpha / rank.
SCALED_LAST = (
    ".dora_scale",
    ".lora_magnitude_vector",
    ".lora_magnitude_vector.weight",
    ".lora_magnitude_vector.default.weight",
    ".bias_values",
    ".scale",
)
# Biases that peft multiplies by alpha / rank too, so alpha / rank must not change beside them.
SCALED_TOO = (".lora_B.bias", ".lora_B.default.bias", ".lora_up.bias")
# Other keys that might be an alpha. It is unknown which programs use them, so a pair beside such a
# key is not reduced.
ODD_ALPHAS = (".alpha", "_lora.alpha", ".lora.alpha", ".lora_linear_layer.alpha", ".lora_alpha")

MIDDLE = ".lora_mid.weight"  # the third factor of a Tucker module
# Beside a pair that has none of these keys, only its alpha can be.
_BESIDE = tuple({*SCALED_LAST, *SCALED_TOO, *ODD_ALPHAS, MIDDLE} - {".alpha"})

LYCORIS = "lycoris"  # the naming of a file that has only LoHa, LoKr or Tucker modules
# Other kinds of adapters, which are no product of two factors, and a part of a key that only they
# have.
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
    dtype: str  # of both factors; if theirs differ, the narrowest that represents both
    scaled_last: bool = False  # as in DoRA: neither up @ down nor alpha / rank may change

    @property
    def rank(self) -> int:
        return self.down_shape[0]

    @property
    def out_features(self) -> int:
        return self.up_shape[0]

    @property
    def in_features(self) -> int:
        """Inputs times kernel size: the number of columns of the flattened delta weight."""
        return prod(self.down_shape[1:])

    @property
    def alpha_key(self) -> str:
        """The key of its alpha, or the key under which this naming would store one."""
        return self.alpha or self.name + self.naming.alpha

    def shapes_at(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shapes that up and down have at another rank."""
        up = (self.up_shape[0], rank, *self.up_shape[2:])
        return up, (rank, *self.down_shape[1:])


@dataclass(frozen=True, slots=True)
class Layout:
    """The contents of a file: its modules, and the keys of the `untouched` tensors.

    Untouched tensors are copied to the output bit for bit, except those of composites that a plan
    converts. `naming` is that of most modules. A file may have only composites. `alpha_zero`: the
    untouched keys of modules with alpha 0 (`zero_alpha`).
    """

    modules: tuple[Module, ...]
    untouched: tuple[str, ...]
    naming: str
    family: str
    composites: tuple[Composite, ...] = ()
    alpha_zero: frozenset[str] = frozenset()

    @property
    def dtype(self) -> str:
        """The dtype of most modules."""
        dtypes = [m.dtype for m in self.modules or self.composites]
        return max(dict.fromkeys(dtypes), key=dtypes.count)


def read_layout(tensors: Mapping[str, TensorSpec], *, also_small: bool = False) -> Layout:
    """Find the LoRA modules of a file from its header (key -> dtype and shape).

    `also_small`: also those of LoHa and LoKr that cannot become smaller.
    Raises Skipped (`no_lora`, `checkpoint`, `unsupported_adapter`, `unsupported_dtype`) if it has
    no module that can be reduced.
    """
    plain = not any(key.endswith(_BESIDE) for key in tensors)
    pairs = [m for m in (_find_module(tensors, key, plain=plain) for key in tensors) if m]
    modules = tuple(m for m in pairs if _is_float(tensors, m))
    composites = find_composites(tensors, also_small=also_small)
    if not modules and not composites:
        raise _explain_no_modules(tensors, pairs)
    taken = {key for m in modules for key in (m.up, m.down, m.alpha) if key}
    namings = [m.naming.name for m in modules] or [LYCORIS]
    shapes = [(m.name, m.out_features, m.in_features) for m in modules]
    shapes += [(c.name, c.out_features, c.in_features) for c in composites]
    return Layout(
        modules=modules,
        untouched=tuple(key for key in tensors if key not in taken),
        naming=max(dict.fromkeys(namings), key=namings.count),
        family=family_of(shapes),
        composites=composites,
    )


def _find_module(tensors: Mapping[str, TensorSpec], down_key: str, *, plain: bool) -> Module | None:
    """Return the module whose `down` has this key; None for any other key or an unsuitable pair.

    `plain`: no key of the file ends as those in _BESIDE do.
    """
    naming = find_naming(down_key)
    if naming is None:
        return None
    base = naming.base(down_key, naming.down) or ""
    up_key, name = naming.key(base, naming.up), naming.key(base, naming.end)
    if up_key not in tensors or base + MIDDLE in tensors:
        return None
    up, down = tensors[up_key], tensors[down_key]
    alpha = name + naming.alpha
    if not _is_pair(up.shape, down.shape) or not _may_be_alpha(tensors.get(alpha)):
        return None
    is_usual = plain and alpha == base + ".alpha"
    if not is_usual and any(base + odd in tensors for odd in ODD_ALPHAS if base + odd != alpha):
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
        scaled_last=not plain and any(base + part in tensors for part in beside),
    )


def find_naming(down_key: str) -> Naming | None:
    """Return the naming whose keys of `down` are like this one."""
    if not down_key.endswith(_DOWN_ENDS) and not down_key.startswith(_DOWN_BEGINNINGS):
        return None
    return next((n for n in NAMINGS if n.base(down_key, n.down) is not None), None)


def _is_pair(up: tuple[int, ...], down: tuple[int, ...]) -> bool:
    """Whether up @ down is the delta weight: ranks agree, and only `down` has a kernel."""
    if len(up) < 2 or len(up) != len(down) or 0 in up or 0 in down:
        return False
    return up[1] == down[0] and all(size == 1 for size in up[2:])


def _may_be_alpha(tensor: TensorSpec | None) -> bool:
    """Whether the alpha is absent or one number. Modules with any other alpha stay untouched."""
    if tensor is None:
        return True
    return prod(tensor.shape) == 1 and tensor.dtype in FLOAT_DTYPES + INTEGER_DTYPES


def _common_dtype(up: str, down: str) -> str:
    if {up, down} == {"F16", "BF16"}:
        return "F32"
    return max(up, down, key=lambda dtype: ITEM_SIZE.get(dtype, 0))


def _is_float(tensors: Mapping[str, TensorSpec], module: Module) -> bool:
    return tensors[module.up].dtype in FLOAT_DTYPES and tensors[module.down].dtype in FLOAT_DTYPES


def unsupported_adapter(kind: str) -> Skipped:
    """Return the reason why a file of this kind of adapter alone stays as it is."""
    return Skipped(
        Reason.UNSUPPORTED_ADAPTER,
        f"this is a {kind} adapter: its weights are no product of two factors, and lensd can "
        "reduce only such products. LoHa and LoKr in 32 bits become 16 bits, nothing more. The "
        "file stays unchanged",
    )


def _explain_no_modules(tensors: Mapping[str, TensorSpec], pairs: list[Module]) -> Skipped:
    if pairs:
        dtypes = ", ".join(sorted({tensors[m.down].dtype for m in pairs}))
        return Skipped(
            Reason.UNSUPPORTED_DTYPE,
            f"its LoRA pairs are stored as {dtypes}; lensd reduces only float16, bfloat16, float32 "
            "and float64. The file stays unchanged",
        )
    for kind, part in OTHER_ADAPTERS:
        if any(part in key for key in tensors):
            return unsupported_adapter(kind)
    if any(CHECKPOINT_KEYS.match(key) for key in tensors):
        return Skipped(
            Reason.CHECKPOINT,
            "this is a whole model (a checkpoint), not a LoRA",
            folder_advice="; move it out of the watched folder or add it to `exclude`",
        )
    example = f" (the first is {next(iter(tensors))!r})" if tensors else ""
    return Skipped(
        Reason.NO_LORA,
        f"none of its {len(tensors)} tensors{example} form a pair of LoRA factors",
        folder_advice="; move the file out of the watched folder or add it to `exclude`",
    )
