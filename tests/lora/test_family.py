"""lensd.lora.family: the base model's family by names and widths alone."""

from __future__ import annotations

import pytest

from lensd.lora.family import family_of

UNET = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"


@pytest.mark.parametrize(
    ("name", "width", "family"),
    [
        (UNET, 768, "sd15"),
        (UNET, 1024, "sd2"),
        (UNET, 2048, "sdxl"),
        (UNET, 640, "unknown"),  # no text embedding has this width
        ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", 2048, "sdxl"),
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k", 768, "sd15"),
        ("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k", 1024, "sd2"),
        ("lora_te_text_model_encoder_layers_0_self_attn_q_proj", 768, "sd15"),
        ("text_encoder.text_model.encoder.layers.0.self_attn.q_proj", 1024, "sd2"),
        ("lora_te2_text_model_encoder_layers_0_self_attn_q_proj", 1280, "sdxl"),
        ("lora_unet_single_blocks_3_linear1", 3072, "flux"),
        ("diffusion_model.double_blocks.0.img_attn.qkv", 3072, "flux"),
        ("transformer.single_transformer_blocks.0.attn.to_q", 3072, "flux"),
        ("transformer.single_transformer_blocks.39.attn.to_q", 3072, "hunyuanvideo"),
        ("lora_unet_double_blocks_0_img_mlp_fc1", 3072, "hunyuanvideo"),
        ("transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj", 6144, "flux2"),
        ("lora_unet_joint_blocks_0_x_block_attn_qkv", 1536, "sd3"),
        ("transformer.transformer_blocks.0.attn.add_q_proj", 2432, "sd3"),
        ("transformer.transformer_blocks.0.attn2.to_k", 2048, "ltx"),  # no UNet: at the root
        ("transformer.transformer_blocks.0.attn1.to_q", 1920, "unknown"),  # CogVideoX
        ("transformer.transformer_blocks.0.audio_attn1.to_q", 2048, "ltx2"),
        ("transformer.transformer_blocks.25.attn.to_q", 3072, "qwenimage"),  # FLUX has 19
        ("transformer.transformer_blocks.18.attn.to_q", 3072, "unknown"),  # FLUX or another
        ("lora_unet_transformer_blocks_0_img_mod_1", 3072, "qwenimage"),
        ("diffusion_model.layers.0.attention.qkv", 3840, "zimage"),
        ("diffusion_model.layers.0.attention.qkv", 2304, "unknown"),  # Lumina 2
        ("lora_unet__blocks_0_self_attn_q", 1536, "wan"),
        ("transformer.blocks.0.attn2.add_k_proj", 5120, "unknown"),
        ("transformer.blocks.0.ffn.net.0.proj", 5120, "wan"),
        ("diffusion_model.distilled_guidance_layer.layers.0.in_layer", 5120, "chroma"),
        ("unet:12", 768, "sd15"),
        ("list:12", 1024, "sd2"),
        ("base_model.model.model.layers.0.self_attn.k_proj", 640, "unknown"),
    ],
)
def test_one_matching_module_is_enough(name: str, width: int, family: str) -> None:
    """The other modules match no rule."""
    assert family_of([("something.else", 320), (name, width)]) == family


def test_a_file_without_modules_has_an_unknown_family() -> None:
    assert family_of([]) == "unknown"
