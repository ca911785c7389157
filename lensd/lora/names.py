"""Convert module names of every naming to one canonical name, to match modules of two files.

The canonical name is the component, a slash, and the module's path in diffusers' model with every
dot replaced by an underscore. kohya's names have underscores in both roles, so the dots cannot be
recovered.
"""

from __future__ import annotations

import re
from collections.abc import Callable

# The first prefix that matches is removed. A name without a prefix belongs to the denoiser.
PREFIXES: tuple[tuple[str, str], ...] = (
    ("base_model.model.", "denoiser"),
    ("unet.", "denoiser"),
    ("transformer.", "denoiser"),
    ("diffusion_model.", "denoiser"),
    ("lora_unet_", "denoiser"),
    ("lora_transformer_", "denoiser"),
    ("text_encoder.", "te1"),
    ("text_encoder_2.", "te2"),
    ("text_encoder_3.", "te3"),
    ("lora_te_", "te1"),
    ("lora_te1_", "te1"),
    ("lora_te2_", "te2"),
    ("lora_te3_", "te3"),
)

# The first format of diffusers named attention processors instead of the layers inside them.
OLD_DIFFUSERS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"_processor_(?=to_(q|k|v|out)$)"), "_"),
    (re.compile(r"^text_model_"), ""),
    (re.compile(r"(_self_attn)_to_out$"), r"\1_out_proj"),
    (re.compile(r"(_self_attn)_to_([qkv])$"), r"\1_\2_proj"),
    (re.compile(r"(_attn\d?)_to_out$"), r"\1_to_out_0"),
)

# Names of the original UNet, which SDXL LoRAs use, and the names of the same layers in diffusers.
LAYERS_PER_BLOCK = 2
IN_RESNET: tuple[tuple[str, str], ...] = (
    ("in_layers_2", "conv1"),
    ("emb_layers_1", "time_emb_proj"),
    ("out_layers_3", "conv2"),
    ("skip_connection", "conv_shortcut"),
)
OUTSIDE_BLOCKS: tuple[tuple[str, str], ...] = (
    ("input_blocks_0_0", "conv_in"),
    ("out_2", "conv_out"),
    ("time_embed_0", "time_embedding_linear_1"),
    ("time_embed_2", "time_embedding_linear_2"),
    ("label_emb_0_0", "add_embedding_linear_1"),
    ("label_emb_0_2", "add_embedding_linear_2"),
)
ORIGINAL_BLOCK = re.compile(r"(input_blocks|output_blocks)_(\d+)_(\d)_(.+)|middle_block_(\d)_(.+)")


def canonical(name: str) -> str:
    """Return the canonical name of a module, whichever naming its file uses."""
    component, path = _split_prefix(name)
    path = path.replace(".", "_")
    for pattern, replacement in OLD_DIFFUSERS:
        path = pattern.sub(replacement, path)
    return f"{component}/{_to_diffusers_path(path)}"


def _split_prefix(name: str) -> tuple[str, str]:
    """Split a name into its component and its path in that component."""
    for prefix, component in PREFIXES:
        if name.startswith(prefix):
            return component, name.removeprefix(prefix)
    return "denoiser", name


def _to_diffusers_path(path: str) -> str:
    """Convert a path of the original UNet to that of diffusers; return any other path unchanged."""
    found = ORIGINAL_BLOCK.fullmatch(path)
    if path in dict(OUTSIDE_BLOCKS) or not found:
        return dict(OUTSIDE_BLOCKS).get(path, path)
    side, number, inner, rest, middle, middle_rest = found.groups()
    if middle:
        layer = ("resnets_0", "attentions_0", "resnets_1")[min(int(middle), 2)]
        return f"mid_block_{layer}_{_rename_in_resnet(middle_rest)}"
    return _CONVERTERS[side](int(number), int(inner), rest)


def _input_block_path(number: int, inner: int, rest: str) -> str:
    block, layer = divmod(number - 1, LAYERS_PER_BLOCK + 1)
    if rest == "op":
        return f"down_blocks_{block}_downsamplers_0_conv"
    return f"down_blocks_{block}_{_layer_list(inner)}_{layer}_{_rename_in_resnet(rest)}"


def _output_block_path(number: int, inner: int, rest: str) -> str:
    block, layer = divmod(number, LAYERS_PER_BLOCK + 1)
    if rest == "conv":
        return f"up_blocks_{block}_upsamplers_0_conv"
    return f"up_blocks_{block}_{_layer_list(inner)}_{layer}_{_rename_in_resnet(rest)}"


def _layer_list(inner: int) -> str:
    return "attentions" if inner else "resnets"


def _rename_in_resnet(rest: str) -> str:
    return dict(IN_RESNET).get(rest, rest)


_CONVERTERS: dict[str, Callable[[int, int, str], str]] = {
    "input_blocks": _input_block_path,
    "output_blocks": _output_block_path,
}
