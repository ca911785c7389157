"""lensd.lora.portability: int8 only if every program that constrains the file reads it exactly."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from lensd.lora.layout import Layout, TensorSpec, read_layout
from lensd.lora.portability import DIALECTS, PROGRAMS, READS, cell, constraining, dialects, verdict
from tests.lora import key_lists


def int8_verdict(file: Layout, targets: Sequence[str]) -> tuple[bool, tuple[str, ...]]:
    """Whether every module may be int8, and the programs because of which not."""
    found = verdict(file, targets, ("int8",))
    return all(e == "int8" for e in found.encodings.values()), found.forced_by


A_B = (".lora_A.weight", ".lora_B.weight")
DOWN_UP = (".lora_down.weight", ".lora_up.weight")


def layout(*names: str, suffixes: tuple[str, str] = A_B, width: int = 5) -> Layout:
    tensors = {}
    for name in names:
        tensors[name + suffixes[0]] = TensorSpec("F16", (4, width))
        tensors[name + suffixes[1]] = TensorSpec("F16", (6, 4))
    return read_layout(tensors)


TO_Q = "transformer.transformer_blocks.0.attn.to_q"
KOHYA = layout("lora_unet_x", suffixes=DOWN_UP)
FLUX = layout(TO_Q)
TEXT_FIRST = layout("text_encoder.x", TO_Q)
UNET = layout("text_encoder.x", "unet.x")
BFL = layout("diffusion_model.double_blocks.0.img_attn.qkv", width=3072)
FLUX2 = layout("diffusion_model.double_blocks.0.img_mlp.2", width=9216)
WAN = layout("diffusion_model.blocks.0.self_attn.q", width=1536)
LTX = layout("diffusion_model.transformer_blocks.0.attn1.to_q", width=2048)
QWEN = layout("diffusion_model.transformer_blocks.0.img_mlp.net.2")
Z_IMAGE = layout("diffusion_model.layers.0.attention.to_q", width=3840)
NO_FAMILY = layout("diffusion_model.x")
BARE = layout("single_transformer_blocks.0.x")
PEFT_KOHYA = layout("lora_unet_x")
MODELS = (BFL, FLUX2, WAN, LTX, QWEN, Z_IMAGE, NO_FAMILY)
ATTENTION = layout("unet.x.attn1.processor.to_q", suffixes=("_lora.down.weight", "_lora.up.weight"))


@pytest.mark.parametrize(
    ("file", "targets", "int8", "forced_by"),
    [
        (KOHYA, ("comfyui", "a1111", "forge"), True, ()),
        (KOHYA, ("kohya", "invokeai", "sdnext"), True, ()),
        (KOHYA, ("comfyui", "diffusers"), False, ("diffusers",)),
        (KOHYA, ("comfyui-bypass",), False, ("comfyui-bypass",)),
        (KOHYA, ("a1111-functional", "forge"), False, ("a1111-functional",)),
        (KOHYA, ("invokeai-sidecar", "diffusers"), False, ("invokeai-sidecar", "diffusers")),
        (KOHYA, (), False, None),  # every program constrains it
        (FLUX, ("comfyui", "a1111", "forge"), True, ()),  # a1111 does not read it at all
        (FLUX, ("comfyui", "invokeai"), False, ("invokeai",)),
        (FLUX, ("comfyui", "kohya", "sdnext"), True, ()),
        (FLUX, ("a1111",), False, None),  # no target reads it: all programs that do constrain it
        (BFL, ("comfyui", "a1111", "forge", "diffusers", "kohya"), True, ()),
        (BFL, ("a1111",), False, ("comfyui-bypass", "invokeai", "invokeai-sidecar")),
        *((file, ("comfyui", "a1111", "forge"), True, ()) for file in MODELS),
        *((file, ("comfyui", "invokeai"), False, ("invokeai",)) for file in MODELS),
        (FLUX2, ("comfyui", "diffusers"), False, ("diffusers",)),
        (WAN, ("comfyui", "diffusers"), False, ("diffusers",)),
        (LTX, ("comfyui", "diffusers"), False, ("diffusers",)),
        (QWEN, ("comfyui", "diffusers"), True, ()),
        (Z_IMAGE, ("comfyui", "diffusers"), True, ()),
        (NO_FAMILY, ("comfyui", "diffusers"), False, ("diffusers",)),
        (Z_IMAGE, ("comfyui", "sdnext"), False, ("sdnext",)),  # it was not tried there
        (Z_IMAGE, ("sdnext",), False, ("sdnext",)),  # a target is named, not the naming's readers
        (PEFT_KOHYA, ("comfyui", "forge"), True, ()),
        (PEFT_KOHYA, ("comfyui", "a1111", "forge"), False, ("a1111",)),
        (PEFT_KOHYA, ("comfyui", "invokeai", "diffusers"), False, ("invokeai", "diffusers")),
        (TEXT_FIRST, ("comfyui",), True, ()),
        (UNET, ("comfyui",), False, ("diffusers",)),
        (ATTENTION, ("comfyui",), False, ("diffusers",)),
        (BARE, ("comfyui",), False, ("comfyui",)),  # no program is known to read it
    ],
)
def test_targets_constrain_what_they_read(
    file: Layout,
    targets: tuple[str, ...],
    int8: bool,  # noqa: FBT001
    forced_by: tuple[str, ...] | None,
) -> None:
    """A target that does not read the original does not count."""
    found = int8_verdict(file, targets)
    assert found[0] == int8
    if forced_by is not None:
        assert found[1] == forced_by
    else:
        assert found[1]


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("dialect", READS)
def test_one_target_alone_decides_by_its_cell(dialect: str, program: str) -> None:
    """int8 if it reads int8 exactly, else floats; a program that was not tried counts.

    If it reads nothing, the programs that read the file count.
    """
    file = FILES[dialect]
    assert dialects(file) == {dialect}
    found = cell(dialect, program, "int8")
    readers = tuple(
        p for p in PROGRAMS if cell(dialect, p, "int8").may_read and p in READS[dialect]
    )
    if found.may_read:
        exact = found.kind == "exact"
        assert constraining(file, (program,)) == (program,)
        assert int8_verdict(file, (program,)) == (exact, () if exact else (program,))
    else:
        assert constraining(file, (program,)) == readers


FILES = {
    "kohya": KOHYA,
    "peft transformer": FLUX,
    "peft diffusion_model: flux": BFL,
    "peft diffusion_model: qwenimage, zimage": Z_IMAGE,
    "peft diffusion_model: other": WAN,
    "peft lora_unet": PEFT_KOHYA,
    "peft unet": UNET,
    "diffusers transformer": layout(TO_Q, suffixes=(".lora.down.weight", ".lora.up.weight")),
    "diffusers": ATTENTION,
    "xlabs": layout(
        "double_blocks.0.processor.qkv", suffixes=("_lora1.down.weight", "_lora1.up.weight")
    ),
}


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (TEXT_FIRST, {"peft transformer"}),  # text encoders do not count beside a denoiser
        (layout("text_encoder.x", "text_encoder_2.x"), {"peft unet"}),
        (layout("lora_te1_x", suffixes=DOWN_UP), {"kohya"}),
        # No program was observed with these, so they stay in floats.
        (layout(TO_Q, suffixes=(".lora_A.default.weight", ".lora_B.default.weight")), {"other"}),
        (layout(TO_Q, suffixes=(".lora_A", ".lora_B")), {"other"}),
        (layout("lora_transformer_x", suffixes=DOWN_UP), {"other"}),
        (layout("transformer.blocks.0.attn1.to_q", width=1536), {"other"}),
        (layout("transformer.transformer_blocks.0.attn.to_q", width=2432), {"other"}),  # SD3
        (layout("base_model.model.down_blocks.0.x"), {"other"}),
        (layout("unet:0", suffixes=(":down", ":up")), {"other"}),
    ],
)
def test_names_decide_the_dialect(file: Layout, expected: set[str]) -> None:
    """An unknown component, suffix or base model is `other`, which stays in floats."""
    assert dialects(file) == expected
    if expected == {"other"}:
        assert int8_verdict(file, ("comfyui", "forge")) == (False, ("comfyui", "forge"))


def test_a_file_in_two_dialects_must_suit_both() -> None:
    """Factors that no known program reads stay in floats."""
    mixed = read_layout(specs("lora_unet_x", DOWN_UP) | specs("unet.y", A_B))
    assert dialects(mixed) == {"kohya", "peft unet"}
    assert int8_verdict(mixed, ("comfyui",))[0]
    assert int8_verdict(mixed, ("diffusers",)) == (False, ("diffusers",))
    unknown = read_layout(specs("lora_unet_x", DOWN_UP) | specs("somewhere.y", A_B))
    assert verdict(unknown, ("comfyui",)).encodings == {"lora_unet_x": "int8", "somewhere.y": None}


def specs(name: str, suffixes: tuple[str, str]) -> dict[str, TensorSpec]:
    return {
        name + suffixes[0]: TensorSpec("F16", (4, 5)),
        name + suffixes[1]: TensorSpec("F16", (6, 4)),
    }


def test_the_table_names_known_programs_only() -> None:
    """Programs that do not merge never read int8 exactly."""
    assert {p for row in READS.values() for p in row} == set(PROGRAMS)
    assert [d.name for d in DIALECTS] == list(READS)
    for dialect in READS:
        for program in ("comfyui-bypass", "a1111-functional", "invokeai-sidecar"):
            assert cell(dialect, program, "int8").kind != "exact"


def test_real_key_lists_have_a_dialect_where_one_was_observed() -> None:
    """kohya, FLUX in peft's naming and `diffusion_model.` get int8, whatever else the file has."""
    found = {k.title: int8_verdict(read_layout(k.specs), ("comfyui",))[0] for k in LISTS}
    for title in ("sdxl.kohya", "sd15.kohya_locon", "flux.kohya", "flux.peft", "flux.bfl"):
        assert found[title], title
    for title in ("sd15.peft", "flux.peft_default", "sd35m.peft", "flux.onetrainer", "loralib"):
        assert not found[title], title


LISTS = key_lists.read()
