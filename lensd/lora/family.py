"""Find the family of the base model from the names and shapes of modules.

The file's metadata is not used: it is often wrong about the base model. A family is named only if
no other family has layers of these names and shapes. Models that were trained further from another
one have its layers and its family: Kontext, Krea and Fill that of FLUX, Qwen-Image-Edit that of
Qwen-Image, both halves of Wan 2.2 that of Wan, Anima that of Cosmos.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from lensd.lora.transformers import Place, Transformer, fits, place_of, transformers

UNKNOWN = "unknown"
# Chroma has FLUX's layers without their modulation, so a file may be for either of them.
FLUX_OR_CHROMA = "flux_or_chroma"

Shape = tuple[str, int, int]  # name, out_features, in_features
Placed = tuple[Place, tuple[int, int]]


class FamilyRule(NamedTuple):
    """A family, a pattern for module names that only it has, and their inputs (None: any)."""

    family: str
    name: re.Pattern[str]
    inputs: int | None


def _rule(family: str, pattern: str, inputs: int | None = None) -> FamilyRule:
    return FamilyRule(family, re.compile(pattern), inputs)


_ROOT = re.compile(
    r"^(transformer\.|unet\.|(model\.)?diffusion_model\.|base_model\.model\.|net\."
    r"|lora_(unet|transformer)_+(net_)?)"
)
_UNET = r"(down|up|mid|input|output|middle)_block"
_CROSS_KEY = _UNET + r".*attn2[._](processor[._])?to_k$"
_NUMBERED = r"^(unet|text_encoder|list):\d+$"  # cloneofsimo's
_TEXT_ENCODER = re.compile(r"^(lora_te\d?_|text_encoder(_\d)?[.:])")
_IN_UNET = re.compile(_UNET)

# Layers outside of the blocks, one of which is enough to know the family.
CERTAIN: tuple[FamilyRule, ...] = (_rule("chroma", r"distilled_guidance_layer"),)
# The first rule that matches decides. The key projection of cross attention reads the text
# embedding, and its width differs between the Stable Diffusion generations.
UNETS: tuple[FamilyRule, ...] = (
    _rule("sdxl", _CROSS_KEY, 2048),
    _rule("sd2", _CROSS_KEY, 1024),
    _rule("sd15", _CROSS_KEY, 768),
    _rule("sd2", _NUMBERED, 1024),
    _rule("sd15", _NUMBERED, 768),
)
# Several families have CLIP. kohya's `lora_te_` is that of Stable Diffusion 1 or 2.
TEXT_ENCODERS: tuple[FamilyRule, ...] = (
    _rule("sd15", r"^lora_te_.*q_proj$", 768),
    _rule("sd2", r"^(lora_te_|text_encoder\.).*q_proj$", 1024),
)
BESIDE_A_UNET: tuple[FamilyRule, ...] = (
    _rule("sdxl", r"^lora_te2_|^text_encoder_2\."),
    _rule("sd15", r"^text_encoder\..*q_proj$", 768),
)

# Matching takes time proportional to the square of a name's length. No model has a longer name.
LONGEST_NAME = 256
MAX_MISFITS = 0.1  # share of modules with a shape that the model does not have


def family_of(modules: Iterable[Shape]) -> str:
    """Return the family from (name, out_features, in_features) of the modules, or `unknown`."""
    shapes = [shape for shape in modules if len(shape[0]) <= LONGEST_NAME]
    if found := _by_rule(CERTAIN, shapes):
        return found
    families = _by_layers(shapes)
    if families == {"flux", "chroma"}:
        return FLUX_OR_CHROMA
    if families:
        return families.pop() if len(families) == 1 else UNKNOWN
    if found := _by_rule(UNETS, shapes):
        return found
    denoiser = [n for n, *_ in shapes if not _TEXT_ENCODER.match(n)]
    if any(map(_IN_UNET.search, denoiser)):
        return _by_rule(BESIDE_A_UNET + TEXT_ENCODERS, shapes) or UNKNOWN
    return UNKNOWN if denoiser else _by_rule(TEXT_ENCODERS, shapes) or UNKNOWN


def _by_rule(rules: Sequence[FamilyRule], shapes: Sequence[Shape]) -> str | None:
    for rule in rules:
        if any(rule.inputs in (None, i) and rule.name.search(n) for n, _, i in shapes):
            return rule.family
    return None


def _by_layers(shapes: Sequence[Shape]) -> set[str]:
    """Return the families of the transformers that have all these layers.

    If the file has every block of some of these models, the others are left out: trainers do not
    leave out the last blocks alone.
    """
    placed: dict[str, list[Placed]] = {}  # by list of blocks
    for name, rows, columns in shapes:
        if place := place_of(without_root(name)):
            placed.setdefault(place.blocks, []).append((place, (rows, columns)))
    scores = {at: _count_fits(model, placed) for at, model in enumerate(transformers())}
    best = max(scores.values())
    if not best:
        return set()
    models = [transformers()[at] for at, score in scores.items() if score == best]
    blocks = {(name, place.number) for name, own in placed.items() for place, _ in own}
    complete = [m for m in models if _block_set(m) <= blocks]
    return {m.family for m in complete or models}


def without_root(name: str) -> str:
    """Return the module's name without the prefix of its naming."""
    return _ROOT.sub("", name)


def _block_set(model: Transformer) -> set[tuple[str, int]]:
    return {(name, at) for name, number in model.blocks.items() for at in range(number)}


def _count_fits(model: Transformer, placed: Mapping[str, Sequence[Placed]]) -> int:
    """Count the modules that the model has; 0 if it lacks one of their layers or blocks."""
    own = [found for name in model.blocks for found in placed.get(name, ())]
    if any(
        (place.blocks, place.layer) not in model.layers
        or place.number >= model.blocks[place.blocks]
        for place, _ in own
    ):
        return 0
    fitting = sum(fits(model, place, shape) for place, shape in own)
    return fitting if len(own) - fitting <= MAX_MISFITS * len(own) else 0
