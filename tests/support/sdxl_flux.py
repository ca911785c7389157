"""The modules that trainers adapt in SDXL and FLUX, in the spellings that are most common.

As kohya's scripts spell them (the original names; FLUX has query, key and value in one) and as
peft's (diffusers' names; query, key and value apart).
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.support.architectures import Module

FLUX = 3072
SDXL_CONTEXT = 2048
# place in the UNet, its width, its transformer blocks
SDXL_TRANSFORMERS = (
    *((f"input_blocks.{i}.1", 640, 2) for i in (4, 5)),
    *((f"input_blocks.{i}.1", 1280, 10) for i in (7, 8)),
    ("middle_block.1", 1280, 10),
    *((f"output_blocks.{i}.1", 1280, 10) for i in (0, 1, 2)),
    *((f"output_blocks.{i}.1", 640, 2) for i in (3, 4, 5)),
)

# the same in diffusers
SDXL_PEFT = (
    *((f"down_blocks.1.attentions.{i}", 640, 2) for i in range(2)),
    *((f"down_blocks.2.attentions.{i}", 1280, 10) for i in range(2)),
    ("mid_block.attentions.0", 1280, 10),
    *((f"up_blocks.0.attentions.{i}", 1280, 10) for i in range(3)),
    *((f"up_blocks.1.attentions.{i}", 640, 2) for i in range(3)),
)


def sdxl_kohya() -> list[Module]:
    """986 modules: both text encoders and the UNet's transformers, all of them linear."""
    return [
        *_clip("te1", layers=12, width=768),
        *_clip("te2", layers=32, width=1280),
        *(m for place in SDXL_TRANSFORMERS for m in _sdxl_transformer(*place)),
    ]


def sdxl_peft() -> list[Module]:
    """736 modules: the attention of both text encoders and of the UNet."""
    return [
        *(m for m in sdxl_kohya() if m.part != "unet" and ".self_attn." in m.path),
        *(m for p in SDXL_PEFT for m in _sdxl_transformer(*p) if ".attn" in m.path),
    ]


def flux_kohya() -> list[Module]:
    """304 modules of the transformer, without the text encoder."""
    double = (m for block in range(19) for m in _flux_double(f"double_blocks.{block}"))
    single = (m for block in range(38) for m in _flux_single(f"single_blocks.{block}"))
    return [*double, *single]


def flux_peft() -> list[Module]:
    """494 modules of the transformer."""
    double = (m for block in range(19) for m in _peft_double(f"transformer_blocks.{block}"))
    single = (m for block in range(38) for m in _peft_single(f"single_transformer_blocks.{block}"))
    return [*double, *single]


def _clip(part: str, layers: int, width: int) -> Iterator[Module]:
    for layer in range(layers):
        at = f"text_model.encoder.layers.{layer}"
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield Module(part, f"{at}.self_attn.{name}", width, width)
        yield Module(part, f"{at}.mlp.fc1", 4 * width, width)
        yield Module(part, f"{at}.mlp.fc2", width, 4 * width)


def _sdxl_transformer(at: str, width: int, blocks: int) -> Iterator[Module]:
    yield Module("unet", f"{at}.proj_in", width, width)
    for block in range(blocks):
        inside = f"{at}.transformer_blocks.{block}"
        for attention, source in (("attn1", width), ("attn2", SDXL_CONTEXT)):
            yield Module("unet", f"{inside}.{attention}.to_q", width, width)
            yield Module("unet", f"{inside}.{attention}.to_k", width, source)
            yield Module("unet", f"{inside}.{attention}.to_v", width, source)
            yield Module("unet", f"{inside}.{attention}.to_out.0", width, width)
        yield Module("unet", f"{inside}.ff.net.0.proj", 8 * width, width)
        yield Module("unet", f"{inside}.ff.net.2", width, 4 * width)
    yield Module("unet", f"{at}.proj_out", width, width)


def _flux_double(at: str) -> Iterator[Module]:
    for stream in ("img", "txt"):
        yield Module("unet", f"{at}.{stream}_mod.lin", 6 * FLUX, FLUX)
        yield Module("unet", f"{at}.{stream}_attn.qkv", 3 * FLUX, FLUX)
        yield Module("unet", f"{at}.{stream}_attn.proj", FLUX, FLUX)
        yield Module("unet", f"{at}.{stream}_mlp.0", 4 * FLUX, FLUX)
        yield Module("unet", f"{at}.{stream}_mlp.2", FLUX, 4 * FLUX)


def _flux_single(at: str) -> Iterator[Module]:
    yield Module("unet", f"{at}.linear1", 7 * FLUX, FLUX)
    yield Module("unet", f"{at}.linear2", FLUX, 5 * FLUX)
    yield Module("unet", f"{at}.modulation.lin", 3 * FLUX, FLUX)


def _peft_double(at: str) -> Iterator[Module]:
    for norm in ("norm1", "norm1_context"):
        yield Module("transformer", f"{at}.{norm}.linear", 6 * FLUX, FLUX)
    own = ("to_q", "to_k", "to_v", "to_out.0")
    for name in (*own, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"):
        yield Module("transformer", f"{at}.attn.{name}", FLUX, FLUX)
    for stream in ("ff", "ff_context"):
        yield Module("transformer", f"{at}.{stream}.net.0.proj", 4 * FLUX, FLUX)
        yield Module("transformer", f"{at}.{stream}.net.2", FLUX, 4 * FLUX)


def _peft_single(at: str) -> Iterator[Module]:
    yield Module("transformer", f"{at}.norm.linear", 3 * FLUX, FLUX)
    yield Module("transformer", f"{at}.proj_mlp", 4 * FLUX, FLUX)
    yield Module("transformer", f"{at}.proj_out", FLUX, 5 * FLUX)
    for name in ("to_q", "to_k", "to_v"):
        yield Module("transformer", f"{at}.attn.{name}", FLUX, FLUX)
