"""Which program reads which file, and whether it reads int8 exactly: a table, and how to use it.

A dialect is a naming together with the prefix of the keys and, for some, the family of the base
model: these decide which programs read a file. A program reads int8 exactly if the delta weights
that it computes have no NaN and no infinity, and differ from the same formula in float64 by a
relative error of at most 1e-6 (float32), 5e-4 (float16) or 5e-3 (bfloat16). The table was observed
with each program's own loading code; the versions are in docs/formats.md. A program that is absent
from a row was not tried: it counts as a program that reads the dialect, but not exactly in int8.
Files of dialects without a row stay in floats, because no program was tried with them.

This module loads no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

from lensd.lora.layout import Layout, Module

Program = Literal[
    "comfyui",
    "comfyui-bypass",
    "a1111",
    "a1111-functional",
    "forge",
    "kohya",
    "diffusers",
    "invokeai",
    "invokeai-sidecar",
    "sdnext",
]
PROGRAMS: tuple[Program, ...] = get_args(Program)
DEFAULT_TARGETS: tuple[Program, ...] = ("comfyui", "a1111", "forge")

# A row begins with this if only the programs that it adds read the dialect.
_NO_OTHER: Mapping[str, None] = dict.fromkeys(PROGRAMS)
# Programs that find no module by a key that begins with `diffusion_model.`.
_OTHER_PREFIXES: Mapping[str, None] = dict.fromkeys(("a1111", "a1111-functional", "kohya"))
# dialect -> program -> whether it loads int8 factors with the scale in alpha exactly. None: it does
# not read the dialect at all.
READS: Mapping[str, Mapping[str, bool | None]] = {
    "kohya": {
        "comfyui": True,
        "comfyui-bypass": False,  # unmerged float16: B(A(x)) overflows
        "a1111": True,
        "a1111-functional": False,
        "forge": True,
        "kohya": True,
        "diffusers": False,  # refuses int8 parameters
        "invokeai": True,
        "invokeai-sidecar": False,
        "sdnext": True,
    },
    "peft transformer": {
        "comfyui": True,
        "comfyui-bypass": False,
        "forge": True,
        "diffusers": False,
        "invokeai": False,  # raises on the .alpha that carries the scale
        "invokeai-sidecar": False,
        **dict.fromkeys(("a1111", "a1111-functional", "kohya", "sdnext")),
    },
    "peft diffusion_model: flux": {
        **_OTHER_PREFIXES,
        "comfyui": True,
        "comfyui-bypass": False,
        "forge": True,
        "diffusers": None,
        "invokeai": False,  # raises on the .alpha
        "invokeai-sidecar": False,
        "sdnext": None,
    },
    "peft diffusion_model: qwenimage, zimage": {
        **_OTHER_PREFIXES,
        "comfyui": True,
        "comfyui-bypass": False,
        "forge": True,
        "diffusers": True,  # its converters multiply the factors, which makes them floats
        "invokeai": False,  # drops the .alpha without any message: millions of times too strong
        "invokeai-sidecar": False,
    },
    "peft diffusion_model: other": {
        **_OTHER_PREFIXES,
        "comfyui": True,
        "comfyui-bypass": False,
        "forge": True,
        "diffusers": False,  # raises for Wan, LTX and FLUX.2
        "invokeai": False,  # raises for FLUX.2
        "invokeai-sidecar": False,
    },
    "peft lora_unet": {
        "comfyui": True,
        "comfyui-bypass": False,
        "a1111": False,  # drops the .alpha
        "a1111-functional": False,
        "forge": True,
        "kohya": None,
        "diffusers": False,  # raises on the .alpha
        "invokeai": False,  # the same
        "invokeai-sidecar": False,
        "sdnext": None,
    },
    "peft unet": {**_NO_OTHER, "diffusers": False},
    "diffusers transformer": {**_NO_OTHER, "diffusers": False, "sdnext": False},
    "diffusers": {**_NO_OTHER, "diffusers": False},
    "xlabs": {**_NO_OTHER, "diffusers": False},
}


class Dialect(NamedTuple):
    """A row of READS and its modules: naming, suffix of `down`, pattern of names, and families.

    None: any suffix, or any family.
    """

    name: str
    naming: str
    down: str | None
    module: re.Pattern[str]
    families: tuple[str, ...] | None


def _dialect(
    name: str,
    naming: str,
    pattern: str,
    down: str | None = None,
    families: tuple[str, ...] | None = None,
) -> Dialect:
    return Dialect(name, naming, down, re.compile(pattern), families)


_A = ".lora_A.weight"
# Names that only FLUX has in diffusers. No program was observed with other transformers.
_FLUX = (
    r"transformer\.((single_)?transformer_blocks\.\d+\."
    r"(attn|ff|ff_context|norm|norm1|norm1_context|proj_mlp|proj_out)(\.|$)"
    r"|(x_embedder|context_embedder|proj_out)$|(norm_out|time_text_embed)\.)"
)
_MODEL = r"diffusion_model\."
_CONVERTED = ("qwenimage", "zimage")
# A file with only the attention of the first FLUX blocks has the family `unknown`.
FLUX_FAMILIES = ("flux", "flux_or_chroma", "unknown")
DIALECTS: tuple[Dialect, ...] = (
    _dialect("kohya", "kohya", r"lora_(unet|te\d?)_"),
    _dialect("peft transformer", "peft", _FLUX, _A, FLUX_FAMILIES),
    _dialect("peft diffusion_model: flux", "peft", _MODEL, _A, ("flux", "flux_or_chroma")),
    _dialect("peft diffusion_model: qwenimage, zimage", "peft", _MODEL, _A, _CONVERTED),
    _dialect("peft diffusion_model: other", "peft", _MODEL, _A),
    _dialect("peft lora_unet", "peft", r"lora_(unet|te\d?)_", _A),
    _dialect("peft unet", "peft", r"(unet|text_encoder(_\d)?)\.", _A),
    _dialect("diffusers transformer", "diffusers", r"transformer\."),
    _dialect("diffusers", "diffusers", r""),
    _dialect("xlabs", "xlabs", r""),
)
TEXT_ENCODER = re.compile(r"text_encoder(_\d)?\.")


class Verdict(NamedTuple):
    """Whether int8 may be used, and the programs that cannot load it exactly."""

    int8: bool
    forced_by: tuple[str, ...]


def dialects(layout: Layout) -> frozenset[str]:
    """Return the rows of READS that the file's modules belong to; `other` if no row matches.

    Text encoders do not count beside a denoiser. Alone they count as they do beside a `unet`.
    """
    denoiser = [m for m in layout.modules if not TEXT_ENCODER.match(m.name)]
    return frozenset(_dialect_of(m, layout.family) for m in denoiser or layout.modules)


def _dialect_of(module: Module, family: str) -> str:
    for d in DIALECTS:
        same_naming = d.naming == module.naming.name and d.down in (None, module.naming.down)
        same_family = d.families is None or family in d.families
        if same_naming and same_family and d.module.match(module.name):
            return d.name
    return "other"


def constraining(layout: Layout, targets: Sequence[str]) -> tuple[str, ...]:
    """Return the programs that must be able to load the output: the targets that may read the file.

    If no target is known to read it, add all programs that are.
    """
    rows = [READS.get(d, {}) for d in dialects(layout)]
    readers = [p for p in PROGRAMS if any(row.get(p) is not None for row in rows)]
    chosen = [t for t in targets if any(row.get(t, False) is not None for row in rows)]
    if not set(chosen) & set(readers):
        chosen += readers
    return tuple(chosen)


def int8_verdict(layout: Layout, targets: Sequence[str]) -> Verdict:
    """Return whether every program of `constraining` loads int8 exactly.

    A file with a dialect that no known program reads stays in floats.
    """
    rows = [READS.get(d, {}) for d in dialects(layout)]
    programs = constraining(layout, targets)
    inexact = tuple(p for p in programs if any(row and row.get(p, False) is False for row in rows))
    return Verdict(int8=all(rows) and bool(programs) and not inexact, forced_by=inexact)
