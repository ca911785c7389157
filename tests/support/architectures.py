"""The modules of a base model that LoRA trainers adapt, built from its architecture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

PEFT_PARTS = {
    "unet": "unet",
    "te": "text_encoder",
    "te1": "text_encoder",
    "te2": "text_encoder_2",
    "transformer": "transformer",
}


class Module(NamedTuple):
    """One adapted layer; `path` is dotted, as in the model's own code. Linear: no kernel."""

    part: str  # "unet", "transformer", or a text encoder: "te", "te1", "te2"
    path: str
    out_features: int
    in_features: int
    kernel: tuple[int, ...] = ()

    @property
    def fan_in(self) -> int:
        size = self.in_features
        for side in self.kernel:
            size *= side
        return size


def kohya_name(module: Module) -> str:
    """`lora_unet_down_blocks_0_…`: the path flattened behind the part's prefix."""
    return f"lora_{module.part}_{module.path.replace('.', '_')}"


def peft_name(module: Module) -> str:
    """`unet.down_blocks.0.…`: the path as it is in diffusers."""
    return f"{PEFT_PARTS[module.part]}.{module.path}"


def sd15() -> list[Module]:
    """Stable Diffusion 1.5: 72 modules of the text encoder and 192 of the UNet's transformers."""
    return [*_clip_text_encoder(layers=12, width=768), *_unet(context=768)]


def _clip_text_encoder(layers: int, width: int) -> Iterator[Module]:
    for layer in range(layers):
        at = f"text_model.encoder.layers.{layer}"
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield Module("te", f"{at}.self_attn.{name}", width, width)
        yield Module("te", f"{at}.mlp.fc1", 4 * width, width)
        yield Module("te", f"{at}.mlp.fc2", width, 4 * width)


def _unet(context: int) -> Iterator[Module]:
    widths = (320, 640, 1280)
    for block, width in enumerate(widths):
        for index in range(2):
            yield from _transformer(f"down_blocks.{block}.attentions.{index}", width, context)
    yield from _transformer("mid_block.attentions.0", widths[-1], context)
    for block, width in enumerate(reversed(widths), start=1):
        for index in range(3):
            yield from _transformer(f"up_blocks.{block}.attentions.{index}", width, context)


def _transformer(at: str, width: int, context: int) -> Iterator[Module]:
    block = f"{at}.transformer_blocks.0"
    yield Module("unet", f"{at}.proj_in", width, width, (1, 1))
    for attention, source in (("attn1", width), ("attn2", context)):
        yield Module("unet", f"{block}.{attention}.to_q", width, width)
        yield Module("unet", f"{block}.{attention}.to_k", width, source)
        yield Module("unet", f"{block}.{attention}.to_v", width, source)
        yield Module("unet", f"{block}.{attention}.to_out.0", width, width)
    # the first feed-forward layer is gated (GEGLU): twice the hidden width
    yield Module("unet", f"{block}.ff.net.0.proj", 8 * width, width)
    yield Module("unet", f"{block}.ff.net.2", width, 4 * width)
    yield Module("unet", f"{at}.proj_out", width, width, (1, 1))


FAMILIES: dict[str, Callable[[], list[Module]]] = {"sd15": sd15}
