"""Dialects: namings with the prefix of the keys and, for some, the family of the base model.

These decide which programs read a file, and how.
"""

from __future__ import annotations

import re
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
# Names that only FLUX has in diffusers. No program was observed with other transformers.
_FLUX = (
    r"transformer\.((single_)?transformer_blocks\.\d+\."
    r"(attn|ff|ff_context|norm|norm1|norm1_context|proj_mlp|proj_out)(\.|$)"
    r"|(x_embedder|context_embedder|proj_out)$|(norm_out|time_text_embed)\.)"
)
_MODEL = r"diffusion_model\."
_CONVERTED = ("qwenimage", "zimage")
# A file with only the attention of the first FLUX blocks has the family `unknown`.
FLUX_FAMILIES = ("flux", "unknown")
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
    for d in DIALECTS:
        same_naming = d.naming == module.naming.name and d.down in (None, module.naming.down)
        same_family = d.families is None or family in d.families
        if same_naming and same_family and d.module.match(module.name):
            return d.name
    return "other"
