"""lensd.lora.names: the same module has one canonical name in every naming."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lensd.lora.names import canonical

BLOCK = "down_blocks.0.attentions.1.transformer_blocks.0.attn1"

SAME = {
    "an attention layer": [
        f"unet.{BLOCK}.to_out.0",
        f"{BLOCK}.to_out.0",
        f"base_model.model.{BLOCK}.to_out.0",
        f"unet.{BLOCK}.processor.to_out",
        f"{BLOCK}.processor.to_out",
        "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_out_0",
        "lora_unet_input_blocks_2_1_transformer_blocks_0_attn1_to_out_0",
    ],
    "a query": [
        f"unet.{BLOCK}.to_q",
        f"unet.{BLOCK}.processor.to_q",
        "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_q",
    ],
    "a text encoder's": [
        "text_encoder.text_model.encoder.layers.3.self_attn.out_proj",
        "text_encoder.encoder.layers.3.self_attn.out_proj",
        "text_encoder.text_model.encoder.layers.3.self_attn.to_out",
        "lora_te_text_model_encoder_layers_3_self_attn_out_proj",
        "lora_te1_text_model_encoder_layers_3_self_attn_out_proj",
    ],
    "a second text encoder's": [
        "text_encoder_2.text_model.encoder.layers.3.self_attn.q_proj",
        "text_encoder_2.text_model.encoder.layers.3.self_attn.to_q",
        "lora_te2_text_model_encoder_layers_3_self_attn_q_proj",
    ],
    "FLUX in diffusers' names": [
        "transformer.transformer_blocks.0.attn.to_q",
        "transformer_blocks.0.attn.to_q",
        "lora_transformer_transformer_blocks_0_attn_to_q",
    ],
    "FLUX in its own names": [
        "diffusion_model.double_blocks.0.img_attn.qkv",
        "lora_unet_double_blocks_0_img_attn_qkv",
    ],
    "a resnet": [
        "unet.up_blocks.1.resnets.2.conv_shortcut",
        "lora_unet_up_blocks_1_resnets_2_conv_shortcut",
        "lora_unet_output_blocks_5_0_skip_connection",
    ],
    "an upsampler": ["unet.up_blocks.0.upsamplers.0.conv", "lora_unet_output_blocks_2_2_conv"],
    "a downsampler": ["unet.down_blocks.0.downsamplers.0.conv", "lora_unet_input_blocks_3_0_op"],
    "the middle": ["unet.mid_block.resnets.1.conv2", "lora_unet_middle_block_2_out_layers_3"],
    "the beginning": ["unet.conv_in", "lora_unet_input_blocks_0_0"],
}


def test_each_module_has_one_canonical_name_of_its_own() -> None:
    """All namings in a row of SAME give one name, and different rows give different names."""
    names = [{canonical(n) for n in spellings} for spellings in SAME.values()]
    assert [len(found) for found in names] == [1] * len(SAME)
    assert len(set.union(*names)) == len(SAME)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("sdxl.kohya", "sdxl.kohya_diffnames"),
        ("sdxl.kohya", "sdxl.peft_full"),
        ("sdxl.kohya_locon", "sdxl.peft_locon"),
        ("sdxl.peft", "sdxl.olddiffusers"),
        ("sd15.kohya", "sd15.peft_full"),
        ("sd15.kohya_locon", "sd15.peft_locon"),
        ("sd15.peft", "sd15.olddiffusers"),
        ("sd15.peft", "sd15.peft_tf5"),
        ("sd15.peft", "sd15.diffusers_lora"),
        ("sd15.olddiffusers_bare", "sd15.peft_base"),
        ("flux.peft", "flux.peft_bare"),
        ("flux.bfl", "flux.bfl_bare"),
        ("sd35m.peft", "sd35m.comfy_diff"),
    ],
)
def test_whole_models(shared: Path, one: str, other: str) -> None:
    """Every module of the smaller file is in the larger one, and no two have the same name."""
    sides = []
    for table in (one, other):
        modules = [m["module"] for m in json.loads((shared / f"models/{table}.json").read_text())]
        # In the table, names of old diffusers end in `_lora`, which lensd counts to the suffix.
        modules = [name.removesuffix("_lora") for name in modules]
        sides.append({canonical(name) for name in modules})
        assert len(sides[-1]) == len(modules)
    small, large = sorted(sides, key=len)
    assert small <= large
