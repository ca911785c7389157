"""Tiny models of the real classes in diffusers' real pipelines, and what a LoRA changes in them."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

os.environ["HF_HUB_OFFLINE"] = "1"  # huggingface_hub reads it once, when it is imported

Deltas = dict[str, Tensor]
COMPONENTS = ("unet", "transformer", "text_encoder", "text_encoder_2")


class Libraries(NamedTuple):
    """The modules diffusers and transformers, and peft's base class of adapted layers."""

    diffusers: Any
    transformers: Any
    lora_layer: type[Any]


@cache
def libraries() -> Libraries:
    """Imported when a test needs them: they take seconds, and every worker of pytest collects."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import diffusers
        import transformers
        from peft.tuners.lora import LoraLayer

        return Libraries(diffusers, transformers, LoraLayer)


def sd15() -> Any:
    """Two levels, one with attention, and a text encoder of two layers."""
    return libraries().diffusers.StableDiffusionPipeline(
        vae=None,
        text_encoder=libraries().transformers.CLIPTextModel(_clip(width=48)),
        tokenizer=None,
        unet=_unet(context=768),
        scheduler=libraries().diffusers.EulerDiscreteScheduler(steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl() -> Any:
    """As SD1.5, with two text encoders and the added embeddings."""
    unet = _unet(
        context=2048,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=2,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=80,
    )
    return libraries().diffusers.StableDiffusionXLPipeline(
        vae=None,
        text_encoder=libraries().transformers.CLIPTextModel(_clip(width=48)),
        text_encoder_2=libraries().transformers.CLIPTextModelWithProjection(_clip(width=64)),
        tokenizer=None,
        tokenizer_2=None,
        unet=unet,
        scheduler=libraries().diffusers.EulerDiscreteScheduler(steps_offset=1),
    )


def flux() -> Any:
    """One double block and two single ones."""
    transformer = libraries().diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=48,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    )
    return libraries().diffusers.FluxPipeline(
        scheduler=libraries().diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=None,
        text_encoder=libraries().transformers.CLIPTextModel(_clip(width=48)),
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=transformer,
    )


PIPELINES = {"sd15": sd15, "sdxl": sdxl, "flux": flux}


def _unet(context: int, **changes: Any) -> Any:
    fields = {
        "sample_size": 8,
        "block_out_channels": (32, 64),
        "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": context,
        "attention_head_dim": 8,
        "norm_num_groups": 8,
    }
    return libraries().diffusers.UNet2DConditionModel(**{**fields, **changes})


def _clip(width: int) -> Any:
    return libraries().transformers.CLIPTextConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=32,
        vocab_size=99,
        bos_token_id=0,
        eos_token_id=1,
    )


def layers(pipeline: Any) -> dict[str, tuple[int, int, tuple[int, ...]]]:
    """`component/path` of every linear and convolution -> out, in, kernel (none for a linear)."""
    found: dict[str, tuple[int, int, tuple[int, ...]]] = {}
    for place, layer in _modules(pipeline):
        if isinstance(layer, torch.nn.Linear):
            found[place] = (layer.out_features, layer.in_features, ())
        elif isinstance(layer, torch.nn.Conv2d):
            found[place] = (layer.out_channels, layer.in_channels, tuple(layer.kernel_size))
    return found


def applied(name: str, lora: Path | Mapping[str, Tensor]) -> Deltas:
    """What `pipe.load_lora_weights` does with a file or a state dict: path -> the delta weight.

    [out, in * kernel], float64, as peft applies it: scaling * B @ A.
    """
    return applied_by(PIPELINES[name](), lora)


def applied_by(
    pipeline: Any, lora: Path | Mapping[str, Tensor], dtype: torch.dtype = torch.float32
) -> Deltas:
    """What a pipeline in a precision makes of a LoRA."""
    pipeline.to(dtype)
    pipeline.load_lora_weights(str(lora) if isinstance(lora, Path) else dict(lora))
    return {f.place: f.scale * f.up @ f.down for f in lora_layers(pipeline)}


class Applied(NamedTuple):
    """A layer with a LoRA: scale * up @ down is added to its weight."""

    place: str
    scale: float
    up: Tensor
    down: Tensor


def lora_layers(pipeline: Any) -> Iterator[Applied]:
    """Yield the layers with a LoRA, in float64."""
    for place, layer in _modules(pipeline):
        if isinstance(layer, libraries().lora_layer):
            (adapter,) = layer.lora_A
            up, down = _weight(layer.lora_B[adapter]), _weight(layer.lora_A[adapter])
            yield Applied(place, layer.scaling[adapter], up, down)


def _weight(layer: Any) -> Tensor:
    weight: Tensor = layer.weight
    return weight.detach().double().flatten(1)


def _modules(pipeline: Any) -> Iterator[tuple[str, Any]]:
    """Every module; transformers 5 has `text_model` in one of its two CLIP classes only."""
    for component in COMPONENTS:
        model = getattr(pipeline, component, None)
        if model is not None:
            for path, module in model.named_modules():
                yield f"{component}/{path.removeprefix('text_model.')}", module


def parameters(kind: type[Any]) -> list[str]:
    """The parts that a pipeline must be given."""
    found = list(inspect.signature(kind.__init__).parameters.values())[1:]
    return [p.name for p in found if p.default is p.empty]
