"""lensd.lora.blocks: the block of the base model that a module belongs to, in every naming."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lensd.lora.blocks import Block, block_of, in_model
from tests.support.architectures import Module, sd15
from tests.support.lora_file import Plan
from tests.support.sdxl_flux import flux_kohya, flux_peft, sdxl_kohya


@pytest.mark.parametrize(
    ("module", "block"),
    [
        ("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q", "down_blocks.1"),
        ("unet.up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_v", "up_blocks.3"),
        ("lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_k", "down_blocks.1"),
        ("lora_unet_output_blocks_0_1_transformer_blocks_9_ff_net_2", "up_blocks.0"),
        ("lora_unet_middle_block_1_transformer_blocks_9_ff_net_2", "mid_block"),
        ("lora_unet_mid_block_attentions_0_proj_in", "mid_block"),
        ("lora_te_text_model_encoder_layers_11_mlp_fc1", "te1.11"),
        ("text_encoder_2.text_model.encoder.layers.3.self_attn.q_proj", "te2.3"),
        ("lora_te2_text_projection", "te2"),
        ("lora_unet_double_blocks_7_img_attn_qkv", "double_blocks.7"),
        ("transformer.single_transformer_blocks.37.attn.to_q", "single_transformer_blocks.37"),
        ("diffusion_model.blocks.12.self_attn.q", "blocks.12"),
        ("lora_unet_final_layer_linear", "other"),
        ("unet:14", "other"),
    ],
)
def test_block_of(module: str, block: str) -> None:
    assert block == str(block_of(module))


def test_blocks_sort_by_number() -> None:
    """Block 10 comes after block 2."""
    assert [Block("b", 2), Block("b", 10), Block("mid")] == sorted(
        [Block("mid"), Block("b", 10), Block("b", 2)]
    )


def test_blocks_in_the_order_of_the_model() -> None:
    """Text encoders come first, then down blocks, then up blocks; unknown parts come last."""
    mixed = [Block("up_blocks", 1), Block("other"), Block("down_blocks", 3), Block("te1", 11)]
    assert ["te1.11", "down_blocks.3", "up_blocks.1", "other"] == [
        str(block) for block in sorted(mixed, key=in_model)
    ]


@pytest.mark.parametrize(
    ("model", "naming", "blocks"),
    [
        (sd15, "kohya", 19),
        (sdxl_kohya, "kohya", 49),
        (flux_kohya, "kohya", 57),
        (flux_peft, "peft", 57),
    ],
)
def test_every_module_of_a_real_model_has_a_block(
    model: Callable[[], list[Module]], naming: str, blocks: int
) -> None:
    """No module has the block `other`, and there are as many blocks as in the model."""
    plan = Plan(model(), naming, 4, None, "F16")
    found = {block_of(plan.name(module)) for module in plan.modules}
    assert Block("other") not in found
    assert blocks == len(found)
