"""Find the family of the base model from module names and widths.

The file's metadata is not used: it is often wrong about the base model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple


class FamilyRule(NamedTuple):
    """A family, a pattern for module names that only it has, and their width (None: any)."""

    family: str
    name: re.Pattern[str]
    width: int | None


def _rule(family: str, pattern: str, width: int | None = None) -> FamilyRule:
    return FamilyRule(family, re.compile(pattern), width)


_CROSS_KEY = r"(down|up|mid|input|output|middle)_block.*attn2[._](processor[._])?to_k$"
_ROOT = r"^(transformer\.|diffusion_model\.|base_model\.model\.|lora_(unet|transformer)_+)?"
_WAN = _ROOT + r"blocks[._]\d+[._]"
_LTX = _ROOT + r"transformer_blocks[._]\d+[._]"
_NUMBERED = r"^(unet|text_encoder|list):\d+$"  # cloneofsimo's

# The first rule that matches decides, so models that are derived from FLUX stand before FLUX. The
# key projection of cross attention reads the text embedding, and its width differs between the
# Stable Diffusion generations.
FAMILIES: tuple[FamilyRule, ...] = (
    _rule("chroma", r"distilled_guidance_layer"),
    _rule("hunyuanvideo", r"double_blocks[._]\d+[._](img|txt)_(mlp[._]fc|mod[._]linear)"),
    _rule("hunyuanvideo", r"single_(transformer_)?blocks[._]3[89][._]", 3072),
    _rule("qwenimage", r"(?<!single_)transformer_blocks[._]\d+[._](img|txt)_(mlp|mod)[._]"),
    _rule("qwenimage", r"(?<!single_)transformer_blocks[._][2-5]\d[._]attn[._]to_q$", 3072),
    _rule("zimage", _ROOT + r"(layers|\w+_refiner)[._]\d+[._](attention|feed_forward)[._]", 3840),
    _rule("wan", _WAN + r"(self|cross)_attn[._][qkvo](_img)?$"),
    _rule("wan", _WAN + r"attn[12][._]to_[qkv]$"),
    _rule("wan", _WAN + r"ffn[._](0|2|net[._])"),
    _rule("ltx2", _LTX + r"(audio_|video_to_audio)"),
    _rule("ltx", _LTX + r"attn[12][._]to_[qkv]$", 2048),
    _rule("ltx", _LTX + r"attn[12][._]to_[qkv]$", 4096),
    _rule("flux2", r"single_(transformer_)?blocks[._]\d+", 6144),
    _rule("flux2", r"single_(transformer_)?blocks[._]\d+", 4096),
    _rule("flux2", r"single_transformer_blocks[._]\d+[._]attn[._]to_qkv_mlp_proj$"),
    _rule("flux2", r"single_blocks[._]\d+[._]linear2$", 12288),
    _rule("flux2", r"double_blocks[._]\d+[._](img|txt)_mlp[._]2$", 9216),
    _rule("flux", r"single_(transformer_)?blocks[._]\d+", 3072),
    _rule("flux", r"double_blocks[._]\d+", 3072),
    _rule("sd3", r"joint_blocks[._]\d+"),
    _rule("sd3", r"transformer_blocks[._]\d+[._]attn[._]add_[qkv]_proj$", 1536),
    _rule("sd3", r"transformer_blocks[._]\d+[._]attn[._]add_[qkv]_proj$", 2432),
    _rule("sd3", r"transformer_blocks[._]\d+[._]attn[._]to_q$", 1536),
    _rule("sd3", r"transformer_blocks[._]\d+[._]attn[._]to_q$", 2432),
    _rule("sdxl", _CROSS_KEY, 2048),
    _rule("sd2", _CROSS_KEY, 1024),
    _rule("sd15", _CROSS_KEY, 768),
    _rule("sd2", _NUMBERED, 1024),
    _rule("sd15", _NUMBERED, 768),
    _rule("sdxl", r"^lora_te2_|^text_encoder_2\."),
    _rule("sd15", r"^(lora_te|text_encoder)[._].*q_proj$", 768),
    _rule("sd2", r"^(lora_te|text_encoder)[._].*q_proj$", 1024),
)

# Matching takes time proportional to the square of a name's length. No model has a longer name.
LONGEST_NAME = 256


def family_of(modules: Iterable[tuple[str, int]]) -> str:
    """Return the family from (name, in_features) of the modules; `unknown` if no rule matches."""
    shapes = [(name, width) for name, width in modules if len(name) <= LONGEST_NAME]
    for rule in FAMILIES:
        if any(rule.width in (None, w) and rule.name.search(n) for n, w in shapes):
            return rule.family
    return "unknown"
