"""lensd.lora.family: the base model's family by names and shapes alone."""

from __future__ import annotations

import pytest

from lensd.lora.family import family_of
from lensd.lora.transformers import transformers

UNET = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
ATTENTION = "transformer.transformer_blocks.{}.attn.to_q"
SINGLE = "transformer.single_transformer_blocks.{}.attn.to_q"


@pytest.mark.parametrize(
    ("name", "rows", "columns", "family"),
    [
        (UNET, 640, 768, "sd15"),
        (UNET, 640, 1024, "sd2"),
        (UNET, 640, 2048, "sdxl"),
        (UNET, 640, 640, "unknown"),  # no text embedding has this width
        ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", 640, 2048, "sdxl"),
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k", 320, 768, "sd15"),
        ("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k", 320, 1024, "sd2"),
        ("lora_unet_single_blocks_3_modulation_lin", 9216, 3072, "flux"),
        ("diffusion_model.double_blocks.0.img_mod.lin", 18432, 3072, "flux"),
        ("double_blocks.0.processor.qkv_lora1", 9216, 3072, "flux"),
        ("diffusion_model.double_blocks.0.img_mlp.0", 12288, 3072, "flux_or_chroma"),
        ("diffusion_model.distilled_guidance_layer.layers.0.in_layer", 5120, 5120, "chroma"),
        ("lora_unet_double_blocks_0_img_mlp_0", 18432, 3072, "flux2"),
        ("lora_unet_double_blocks_0_img_mlp_fc1", 12288, 3072, "hunyuanvideo"),
        ("diffusion_model.double_blocks.0.img_attn_qkv", 9216, 3072, "hunyuanvideo"),
        ("lora_unet_double_blocks_0_img_attn_qkv", 9216, 3072, "unknown"),  # one of four families
        (SINGLE.format(0), 3072, 3072, "unknown"),  # FLUX, Chroma, HunyuanVideo or AuraFlow
        (SINGLE.format(39), 3072, 3072, "hunyuanvideo"),  # FLUX has 38 of them
        ("transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj", 55296, 6144, "flux2"),
        ("lora_unet_joint_blocks_0_x_block_attn_qkv", 4608, 1536, "sd3"),
        ("transformer.transformer_blocks.0.attn.add_q_proj", 2432, 2432, "sd3"),
        ("transformer.transformer_blocks.0.attn1.to_q", 1920, 1920, "unknown"),  # CogVideoX
        ("transformer.transformer_blocks.0.attn1.to_q", 2048, 2048, "unknown"),  # LTX or Cosmos
        ("transformer.transformer_blocks.0.attn2.to_k", 2048, 2048, "ltx"),
        ("transformer.transformer_blocks.0.attn2.to_k", 2048, 1024, "cosmos"),
        ("transformer.transformer_blocks.0.audio_attn1.to_q", 2048, 2048, "ltx2"),
        (ATTENTION.format(25), 3072, 3072, "qwenimage"),  # FLUX has 19 of them
        (ATTENTION.format(18), 3072, 3072, "unknown"),
        ("lora_unet_transformer_blocks_0_img_mod_1", 18432, 3072, "qwenimage"),
        ("diffusion_model.layers.0.attention.qkv", 11520, 3840, "zimage"),
        ("diffusion_model.layers.0.attention.qkv", 3840, 2304, "lumina2"),
        ("lora_unet__blocks_0_self_attn_q", 1536, 1536, "wan"),
        ("transformer.blocks.0.ffn.net.0.proj", 13824, 5120, "wan"),
        ("lora_unet_blocks_0_cross_attn_k_proj", 2048, 1024, "cosmos"),
        ("unet:12", 320, 768, "sd15"),
        ("list:12", 320, 1024, "sd2"),
        ("base_model.model.model.layers.0.self_attn.k_proj", 128, 640, "unknown"),
    ],
)
def test_one_matching_module_is_enough(name: str, rows: int, columns: int, family: str) -> None:
    """The other modules match no rule."""
    assert family_of([("something.else", 320, 320), (name, rows, columns)]) == family


@pytest.mark.parametrize(
    ("name", "width", "family"),
    [
        ("lora_te_text_model_encoder_layers_0_self_attn_q_proj", 768, "sd15"),
        ("text_encoder.text_model.encoder.layers.0.self_attn.q_proj", 1024, "sd2"),
        ("text_encoder.text_model.encoder.layers.0.self_attn.q_proj", 768, "unknown"),
        ("lora_te2_text_model_encoder_layers_0_self_attn_q_proj", 1280, "unknown"),
    ],
)
def test_a_text_encoder_alone_may_belong_to_several_families(
    name: str, width: int, family: str
) -> None:
    """CLIP-L and CLIP-G are those of SDXL and SD3, and CLIP-L is FLUX's too."""
    assert family_of([(name, width, width)]) == family


def test_a_text_encoder_counts_beside_a_unet() -> None:
    """It does not beside an unknown denoiser."""
    clip = ("lora_te2_text_model_encoder_layers_0_self_attn_q_proj", 1280, 1280)
    unet = ("lora_unet_mid_block_attentions_0_proj_in", 1280, 1280)
    assert family_of([clip, unet]) == "sdxl"
    assert family_of([clip, ("lora_unet_new_blocks_0_proj_in", 1280, 1280)]) == "unknown"


def test_a_file_with_all_blocks_of_flux_is_not_called_hunyuanvideo() -> None:
    """HunyuanVideo has the same attention in more blocks; Chroma has it in the same number."""
    flux = [(ATTENTION.format(at), 3072, 3072) for at in range(19)]
    flux += [(SINGLE.format(at), 3072, 3072) for at in range(38)]
    assert family_of(flux) == "flux_or_chroma"
    assert family_of(flux[1:]) == "unknown"
    assert family_of([*flux, (SINGLE.format(38), 3072, 3072)]) == "hunyuanvideo"


def test_one_odd_shape_does_not_change_the_family() -> None:
    """A model that lacks a layer of the file, or most of the shapes, is another one."""
    blocks = [(f"transformer.blocks.{at}.attn1.to_q", 5120, 5120) for at in range(20)]
    assert family_of([*blocks, ("transformer.blocks.0.attn1.to_k", 640, 5120)]) == "wan"
    assert family_of([*blocks, ("transformer.blocks.0.attn1.to_z", 5120, 5120)]) == "unknown"
    assert family_of([(n, 640, w) for n, _, w in blocks] + blocks[:5]) == "unknown"


def test_a_file_without_modules_has_an_unknown_family() -> None:
    assert family_of([]) == "unknown"


def test_each_model_is_written_with_all_its_lists() -> None:
    """A list of blocks has a number, and each layer lies in a list."""
    for model in transformers():
        assert all(number > 0 for number in model.blocks.values())
        assert {blocks for blocks, _ in model.layers} == set(model.blocks)
