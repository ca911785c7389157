"""Tiny transformers of the families beside FLUX, in diffusers' real pipelines, and their files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from tests.loading import pipelines
from tests.loading.pipelines import libraries

Shape = tuple[int, int]  # out, in
W = 64  # width of every tiny transformer


class Family(NamedTuple):
    """A pipeline, its transformer, and its modules in the names of the original code."""

    pipeline: str
    model: str
    config: Mapping[str, Any]
    original: Mapping[str, Shape]


_HEADS = {"num_attention_heads": 4, "attention_head_dim": 16}


def _fused(
    block: str, attention: tuple[str, str], mlp: tuple[str, str], hidden: int
) -> dict[str, Shape]:
    """An attention with query, key and value in one module, and a feed-forward of two."""
    return {
        f"{block}{attention[0]}": (3 * W, W),
        f"{block}{attention[1]}": (W, W),
        f"{block}{mlp[0]}": (hidden, W),
        f"{block}{mlp[1]}": (W, hidden // 2 if hidden == 6 * W else hidden),
    }


_WAN = {f"blocks.0.{a}_attn.{x}": (W, W) for a in ("self", "cross") for x in "qkvo"} | {
    "blocks.0.ffn.0": (2 * W, W),
    "blocks.0.ffn.2": (W, 2 * W),
}
_LTX = {
    f"transformer_blocks.0.attn{n}.{x}": (W, W)
    for n in "12"
    for x in ("to_q", "to_k", "to_v", "to_out.0")
} | {"transformer_blocks.0.ff.net.0.proj": (4 * W, W), "transformer_blocks.0.ff.net.2": (W, 4 * W)}
_QWEN = {
    f"transformer_blocks.0.attn.{x}": (W, W)
    for x in (
        "to_q",
        "to_k",
        "to_v",
        "to_out.0",
        "add_q_proj",
        "add_k_proj",
        "add_v_proj",
        "to_add_out",
    )
} | {
    f"transformer_blocks.0.{s}_mlp.net.{n}": shape
    for s in ("img", "txt")
    for n, shape in (("0.proj", (4 * W, W)), ("2", (W, 4 * W)))
}
_Z_IMAGE = {f"layers.0.attention.{x}": (W, W) for x in ("to_q", "to_k", "to_v", "to_out.0")} | {
    f"layers.0.feed_forward.w{n}": shape
    for n, shape in (("1", (170, W)), ("2", (W, 170)), ("3", (170, W)))
}
_FLUX2 = {
    name: shape
    for s in ("img", "txt")
    for name, shape in _fused(
        "double_blocks.0.", (f"{s}_attn.qkv", f"{s}_attn.proj"), (f"{s}_mlp.0", f"{s}_mlp.2"), 6 * W
    ).items()
} | {"single_blocks.0.linear1": (9 * W, W), "single_blocks.0.linear2": (W, 4 * W)}
_FLUX = {
    f"{b}.{m}": (out * W, wide * W)
    for b, modules in (
        (
            "double_blocks.0",
            (
                ("img_mod.lin", 6, 1),
                ("img_attn.qkv", 3, 1),
                ("img_attn.proj", 1, 1),
                ("img_mlp.0", 4, 1),
                ("img_mlp.2", 1, 4),
                ("txt_attn.qkv", 3, 1),
            ),
        ),
        ("single_blocks.0", (("linear1", 7, 1), ("linear2", 1, 5))),
    )
    for m, out, wide in modules
}

FAMILIES: Mapping[str, Family] = {
    "wan": Family(
        "WanPipeline",
        "WanTransformer3DModel",
        {**_HEADS, "text_dim": 16, "freq_dim": 16, "ffn_dim": 2 * W, "num_layers": 1},
        _WAN,
    ),
    "ltx": Family(
        "LTXPipeline",
        "LTXVideoTransformer3DModel",
        {
            **_HEADS,
            "in_channels": 8,
            "out_channels": 8,
            "cross_attention_dim": W,
            "num_layers": 1,
            "caption_channels": 16,
        },
        _LTX,
    ),
    "flux2": Family(
        "Flux2Pipeline",
        "Flux2Transformer2DModel",
        {
            **_HEADS,
            "in_channels": 8,
            "num_layers": 1,
            "num_single_layers": 1,
            "joint_attention_dim": 32,
            "timestep_guidance_channels": 16,
            "axes_dims_rope": (4, 4, 4, 4),
        },
        _FLUX2,
    ),
    "qwenimage": Family(
        "QwenImagePipeline",
        "QwenImageTransformer2DModel",
        {
            **_HEADS,
            "in_channels": 8,
            "out_channels": 2,
            "num_layers": 1,
            "joint_attention_dim": 16,
            "axes_dims_rope": (4, 4, 8),
        },
        _QWEN,
    ),
    "zimage": Family(
        "ZImagePipeline",
        "ZImageTransformer2DModel",
        {
            "in_channels": 4,
            "dim": W,
            "n_layers": 1,
            "n_refiner_layers": 1,
            "n_heads": 4,
            "n_kv_heads": 4,
            "cap_feat_dim": 16,
            "axes_dims": [4, 4, 8],
            "axes_lens": [32, 8, 8],
        },
        _Z_IMAGE,
    ),
    "sd3": Family(
        "StableDiffusion3Pipeline",
        "SD3Transformer2DModel",
        {
            **_HEADS,
            "sample_size": 8,
            "in_channels": 4,
            "num_layers": 2,
            "joint_attention_dim": 16,
            "caption_projection_dim": W,
            "pooled_projection_dim": 16,
            "out_channels": 4,
            "pos_embed_max_size": 8,
        },
        {},
    ),
    "hunyuanvideo": Family(
        "HunyuanVideoPipeline",
        "HunyuanVideoTransformer3DModel",
        {
            **_HEADS,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 1,
            "num_single_layers": 1,
            "num_refiner_layers": 1,
            "text_embed_dim": 16,
            "pooled_projection_dim": 8,
            "rope_axes_dim": (4, 4, 8),
        },
        {},
    ),
    "chroma": Family(
        "ChromaPipeline",
        "ChromaTransformer2DModel",
        {
            **_HEADS,
            "in_channels": 8,
            "num_layers": 1,
            "num_single_layers": 1,
            "joint_attention_dim": 16,
            "axes_dims_rope": (4, 4, 8),
            "approximator_num_channels": 8,
            "approximator_hidden_dim": 16,
            "approximator_layers": 1,
        },
        {},
    ),
    "ltx2": Family(
        "LTX2Pipeline",
        "LTX2VideoTransformer3DModel",
        {
            **_HEADS,
            "in_channels": 8,
            "out_channels": 8,
            "cross_attention_dim": W,
            "num_layers": 1,
            "caption_channels": 16,
            "audio_in_channels": 8,
            "audio_out_channels": 8,
            "audio_num_attention_heads": 4,
            "audio_attention_head_dim": 8,
            "audio_cross_attention_dim": 32,
        },
        {},
    ),
}


def original(family: str) -> Mapping[str, Shape]:
    """The modules of a family in the names of its original code."""
    return _FLUX if family == "flux" else FAMILIES[family].original


# The widths of Wan 1.3B and of LTX, by which their families are told.
REAL_WIDTHS: Mapping[str, Mapping[str, Any]] = {
    "wan": {"num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960},
    "ltx": {"num_attention_heads": 32, "attention_head_dim": 64, "cross_attention_dim": 2048},
}


def pipeline(family: str) -> Any:
    """The real pipeline with a tiny transformer and nothing else."""
    return _pipeline(family, FAMILIES[family].config)


def wide_pipeline(family: str) -> Any:
    """The same with one block of real width."""
    return _pipeline(family, {**FAMILIES[family].config, **REAL_WIDTHS[family]})


def wide(family: str) -> Mapping[str, Shape]:
    """The modules of that block, in the names of the original code; of LTX only the attention."""
    sizes = REAL_WIDTHS[family]
    real = {W: sizes["num_attention_heads"] * sizes["attention_head_dim"]}
    real |= {2 * W: sizes["ffn_dim"]} if "ffn_dim" in sizes else {}
    return {
        name: (real[out], real[width])
        for name, (out, width) in original(family).items()
        if out in real and width in real
    }


def _pipeline(family: str, config: Mapping[str, Any]) -> Any:
    made, diffusers = FAMILIES[family], libraries().diffusers
    model = getattr(diffusers, made.model)(**config)
    kind = getattr(diffusers, made.pipeline)
    parts = dict.fromkeys(pipelines.parameters(kind))
    return kind(**{**parts, "transformer": model})
