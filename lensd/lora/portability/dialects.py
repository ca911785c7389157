"""Dialects: namings with the prefix of the keys and, for some, the family of the base model.

These decide which programs read a file, and how.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from lensd.lora.layout import Layout, Module


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
_A_DEFAULT = ".lora_A.default.weight"
_LORA = ".lora.down.weight"
_TO_Q_LORA = "_lora.down.weight"
# Names that only FLUX and Chroma have in diffusers.
_FLUX_NAMES = (
    r"transformer\.((single_)?transformer_blocks\.\d+\."
    r"(attn|ff|ff_context|norm|norm1|norm1_context|proj_mlp|proj_out)(\.|$)"
    r"|(x_embedder|context_embedder|proj_out)$|(norm_out|time_text_embed)\.)"
)
_TRANSFORMER = r"transformer\."
_DIFFUSERS_NAMES = r"transformer\.(?!(double|single)_blocks\.)"
_MODEL = r"diffusion_model\."
SD = ("sd15", "sd2", "sdxl")
FLUX = ("flux", "chroma", "flux_or_chroma")
# A file with only the attention of the first FLUX blocks has the family `unknown`.
FLUX_FAMILIES = (*FLUX, "unknown")
CONVERTED = ("qwenimage", "zimage")
VIDEO = ("ltx", "ltx2", "hunyuanvideo")
KOHYA_TRANSFORMERS = (*FLUX, "flux2", *CONVERTED, "wan")
# The first that matches decides.
DIALECTS: tuple[Dialect, ...] = (
    _dialect("kohya: sd", "kohya", r"lora_(unet|te\d?)_", None, SD),
    _dialect("kohya: flux and others", "kohya", r"lora_unet_(?!_)", None, KOHYA_TRANSFORMERS),
    _dialect("kohya: their text encoders", "kohya", r"lora_te\d?_", None, KOHYA_TRANSFORMERS),
    _dialect("kohya", "kohya", r"lora_(unet|te\d?)_"),
    _dialect("peft transformer: flux", "peft", _FLUX_NAMES, _A, FLUX_FAMILIES),
    _dialect("peft transformer: flux2", "peft", _TRANSFORMER, _A, ("flux2",)),
    _dialect("peft transformer: qwenimage, zimage", "peft", _TRANSFORMER, _A, CONVERTED),
    _dialect("peft transformer: sd3", "peft", _TRANSFORMER, _A, ("sd3",)),
    _dialect("peft transformer: wan", "peft", _TRANSFORMER, _A, ("wan",)),
    _dialect("peft transformer: video", "peft", _DIFFUSERS_NAMES, _A, VIDEO),
    _dialect("peft default transformer", "peft", _FLUX_NAMES, _A_DEFAULT, FLUX),
    _dialect("peft diffusion_model: flux", "peft", _MODEL, _A, FLUX),
    _dialect("peft diffusion_model: flux2", "peft", _MODEL, _A, ("flux2",)),
    _dialect("peft diffusion_model: qwenimage, zimage", "peft", _MODEL, _A, CONVERTED),
    _dialect("peft diffusion_model: wan", "peft", _MODEL, _A, ("wan",)),
    _dialect("peft diffusion_model: ltx", "peft", _MODEL, _A, ("ltx",)),
    _dialect("peft diffusion_model: other", "peft", _MODEL, _A),
    _dialect("peft lora_unet", "peft", r"lora_(unet|te\d?)_", _A),
    _dialect("peft unet", "peft", r"(unet|text_encoder(_\d)?)\.", _A),
    _dialect("diffusers transformer: flux", "diffusers", _FLUX_NAMES, _LORA, FLUX_FAMILIES),
    _dialect("diffusers transformer: flux2", "diffusers", _TRANSFORMER, _LORA, ("flux2",)),
    _dialect(
        "diffusers transformer: others", "diffusers", _TRANSFORMER, _LORA, (*CONVERTED, "sd3")
    ),
    _dialect("diffusers transformer: video", "diffusers", _DIFFUSERS_NAMES, _LORA, ("wan", *VIDEO)),
    _dialect("diffusers unet processor", "diffusers", r"unet\..*\.processor\.", _TO_Q_LORA),
    _dialect(
        "diffusers processor",
        "diffusers",
        r"(down_blocks|mid_block|up_blocks)\..*\.processor\.",
        _TO_Q_LORA,
    ),
    _dialect("diffusers unet", "diffusers", r"(unet|text_encoder(_\d)?)\."),
    _dialect("xlabs", "xlabs", r"(double|single)_blocks\.\d+\.processor\."),
    _dialect("xlabs", "diffusers", r"single_blocks\.\d+\.processor\.", _TO_Q_LORA),
)
TEXT_ENCODER = re.compile(r"text_encoder(_\d)?\.")


def dialect_of_modules(layout: Layout) -> dict[str, str]:
    """Return module name -> its row of READS; `other` if no row matches.

    Text encoders belong to the dialect of the denoiser beside them. Alone they count as they do
    beside a `unet`.
    """
    found = {m.name: _dialect_of(m, layout.family) for m in layout.modules}
    denoiser = [d for name, d in found.items() if not TEXT_ENCODER.match(name)]
    if not denoiser:
        return found
    most = max(dict.fromkeys(denoiser), key=denoiser.count)
    return {name: most if TEXT_ENCODER.match(name) else d for name, d in found.items()}


def _dialect_of(module: Module, family: str) -> str:
    possible = _possible_dialects(module.naming.name, module.naming.down, family)
    return next((d.name for d in possible if d.module.match(module.name)), "other")


@lru_cache(maxsize=64)
def _possible_dialects(naming: str, down: str, family: str) -> tuple[Dialect, ...]:
    return tuple(
        d
        for d in DIALECTS
        if d.naming == naming
        and d.down in (None, down)
        and (d.families is None or family in d.families)
    )
