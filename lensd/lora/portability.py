"""Programs x namings x encodings: which program reads which file, and int8 exactly. As data.

"Exactly" is a relative delta error against the file's float64 meaning of at most 1e-6 (float32),
5e-4 (float16) or 5e-3 (bfloat16), and nothing non-finite. Observed with each program's own
loading code (the versions stand in docs/formats.md). A program that is absent from a row was not
tried: it counts as one that reads the dialect, and not exactly in int8. Dialects that nothing was
observed of have no row: they stay in floats.
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

# For dialects that are always in floats, since the programs that read them need those.
_NO_OTHER: Mapping[str, None] = dict.fromkeys(PROGRAMS)
# Programs that find no module by a key that begins with `diffusion_model.`.
_OTHER_PREFIXES: Mapping[str, None] = dict.fromkeys(("a1111", "a1111-functional", "kohya"))
# dialect -> program -> whether it loads int8 factors with the scale in alpha exactly; None: it does
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
        "invokeai": False,  # drops the .alpha without a word: millions of times too strong
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
    """A row's name, and the naming, `down`, modules and families that tell it (None: any)."""

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
# FLUX's own module names in diffusers: for other transformers nothing was observed.
_FLUX = (
    r"transformer\.((single_)?transformer_blocks\.\d+\."
    r"(attn|ff|ff_context|norm|norm1|norm1_context|proj_mlp|proj_out)(\.|$)"
    r"|(x_embedder|context_embedder|proj_out)$|(norm_out|time_text_embed)\.)"
)
_MODEL = r"diffusion_model\."
_CONVERTED = ("qwenimage", "zimage")
FLUX_FAMILIES = ("flux", "unknown")  # the attention of the first FLUX blocks alone tells no family
DIALECTS: tuple[Dialect, ...] = (
    _dialect("kohya", "kohya", r"lora_(unet|te\d?)_"),
    _dialect("peft transformer", "peft", _FLUX, _A, FLUX_FAMILIES),
    _dialect("peft diffusion_model: flux", "peft", _MODEL, _A, ("flux",)),
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
    """Whether int8 may be used, and the programs that stand against it."""

    int8: bool
    forced_by: tuple[str, ...]


def dialects(layout: Layout) -> frozenset[str]:
    """The rows of READS that the file's modules belong to; `other` where there is none.

    Text encoders go along with any denoiser; alone they are written as beside a `unet`.
    """
    denoiser = [m for m in layout.modules if not TEXT_ENCODER.match(m.name)]
    return frozenset(_of(m, layout.family) for m in denoiser or layout.modules)


def _of(module: Module, family: str) -> str:
    for d in DIALECTS:
        fits = d.naming == module.naming.name and d.down in (None, module.naming.down)
        if fits and d.module.match(module.name) and family in (d.families or (family,)):
            return d.name
    return "other"


def constraining(layout: Layout, targets: Sequence[str]) -> tuple[str, ...]:
    """The programs that the output must suit: the targets that read the file, or may read it.

    If no target is known to read it, also every program that is.
    """
    rows = [READS.get(d, {}) for d in dialects(layout)]
    readers = [p for p in PROGRAMS if any(row.get(p) is not None for row in rows)]
    chosen = [t for t in targets if any(row.get(t, False) is not None for row in rows)]
    if not set(chosen) & set(readers):
        chosen += readers
    return tuple(chosen)


def int8_verdict(layout: Layout, targets: Sequence[str]) -> Verdict:
    """Whether every program that constrains the file loads int8 exactly.

    A file of which some part is read by no known program stays in floats.
    """
    rows = [READS.get(d, {}) for d in dialects(layout)]
    programs = constraining(layout, targets)
    against = tuple(p for p in programs if any(row and row.get(p, False) is False for row in rows))
    return Verdict(int8=all(rows) and bool(programs) and not against, forced_by=against)
