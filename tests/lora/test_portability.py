"""lensd.lora.portability: the encoding that all programs that constrain a file load exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from lensd.lora.layout import Layout, read_layout
from lensd.lora.portability import (
    DIALECTS,
    ENCODINGS,
    PROGRAMS,
    READS,
    Encoding,
    cell,
    constraining,
    dialects,
    verdict,
)
from lensd.lora.tensor_spec import TensorSpec
from tests.lora import key_lists

A_B = (".lora_A.weight", ".lora_B.weight")
DEFAULT = (".lora_A.default.weight", ".lora_B.default.weight")
DOWN_UP = (".lora_down.weight", ".lora_up.weight")
LORA = (".lora.down.weight", ".lora.up.weight")
PROCESSOR = ("_lora.down.weight", "_lora.up.weight")


def layout(*names: str, suffixes: tuple[str, str] = A_B, family: str = "unknown") -> Layout:
    tensors = {}
    for name in names:
        tensors[name + suffixes[0]] = TensorSpec("F16", (4, 5))
        tensors[name + suffixes[1]] = TensorSpec("F16", (6, 4))
    return replace(read_layout(tensors), family=family)


def kohya(*names: str, family: str = "unknown") -> Layout:
    return layout(*names, suffixes=DOWN_UP, family=family)


TO_Q = "transformer.transformer_blocks.0.attn.to_q"
SINGLE = "transformer.single_transformer_blocks.0.attn.to_q"
QWEN_KEY = "transformer_blocks.0.img_mlp.net.2"
KOHYA = kohya("lora_unet_x")
SD15 = kohya("lora_te_text_model_encoder_layers_0_self_attn_q_proj", family="sd15")
KOHYA_FLUX = kohya("lora_unet_double_blocks_0_img_attn_qkv", family="flux")
KOHYA_WAN = kohya("lora_unet_blocks_0_self_attn_q", family="wan")
FLUX_CLIP = kohya("lora_unet_double_blocks_0_x", "lora_te1_x", family="flux")
FLUX = layout(TO_Q)
UNET = layout("text_encoder.x", "unet.x")
BFL = layout("diffusion_model.double_blocks.0.img_attn.qkv", family="flux")
FLUX2 = layout("diffusion_model.double_blocks.0.img_mlp.2", family="flux2")
WAN = layout("diffusion_model.blocks.0.self_attn.q", family="wan")
LTX = layout("diffusion_model.transformer_blocks.0.attn1.to_q", family="ltx")
QWEN = layout(f"diffusion_model.{QWEN_KEY}", family="qwenimage")
Z_IMAGE = layout("diffusion_model.layers.0.attention.to_q", family="zimage")
NO_FAMILY = layout("diffusion_model.x")


@pytest.mark.parametrize(
    ("file", "targets", "expected"),
    [
        (FLUX, ["diffusers"], True),
        (FLUX, ["comfyui-bypass", "diffusers", "forge"], True),
        (FLUX, ["diffusers", "invokeai"], False),
        (UNET, ["diffusers"], False),
        (WAN, ["comfyui-bypass", "invokeai"], True),
        (WAN, ["comfyui-bypass", "diffusers"], False),
    ],
)
def test_float8_gets_an_alpha_only_if_every_target_applies_it(
    file: Layout, targets: list[str], *, expected: bool
) -> None:
    """The loaders are asked in tests/loading."""
    assert verdict(file, targets).may_add_alpha is expected


T_WAN = layout("transformer.blocks.0.attn1.to_q", family="wan")
T_SD3 = layout(TO_Q, family="sd3")
T_QWEN = layout(f"transformer.{QWEN_KEY}", family="qwenimage")
PEFT_KOHYA = layout("lora_unet_x")
PROCESSORS = layout("unet.x.attn1.processor.to_q", suffixes=PROCESSOR)
FILES = {
    "kohya: sd": SD15,
    "kohya: flux and others": KOHYA_FLUX,
    "kohya": KOHYA,
    "peft transformer: flux": FLUX,
    "peft transformer: flux2": layout(SINGLE, family="flux2"),
    "peft transformer: qwenimage, zimage": T_QWEN,
    "peft transformer: sd3": T_SD3,
    "peft transformer: wan": T_WAN,
    "peft transformer: video": layout("transformer.transformer_blocks.0.attn1.to_q", family="ltx"),
    "peft default transformer": layout(SINGLE, suffixes=DEFAULT, family="flux_or_chroma"),
    "peft diffusion_model: flux": BFL,
    "peft diffusion_model: flux2": FLUX2,
    "peft diffusion_model: qwenimage, zimage": Z_IMAGE,
    "peft diffusion_model: wan": WAN,
    "peft diffusion_model: ltx": LTX,
    "peft diffusion_model: other": NO_FAMILY,
    "peft lora_unet": PEFT_KOHYA,
    "peft unet": UNET,
    "diffusers transformer: flux": layout(TO_Q, suffixes=LORA),
    "diffusers transformer: flux2": layout(SINGLE, suffixes=LORA, family="flux2"),
    "diffusers transformer: others": layout(TO_Q, suffixes=LORA, family="sd3"),
    "diffusers transformer: video": layout(
        "transformer.blocks.0.attn1.to_q", suffixes=LORA, family="wan"
    ),
    "diffusers unet processor": PROCESSORS,
    "diffusers processor": layout("up_blocks.0.attn1.processor.to_q", suffixes=PROCESSOR),
    "diffusers unet": layout("unet.x", suffixes=LORA),
    "xlabs": layout(
        "double_blocks.0.processor.qkv", suffixes=("_lora1.down.weight", "_lora1.up.weight")
    ),
}


@pytest.mark.parametrize(
    ("file", "targets", "expected", "forced_by"),
    [
        (SD15, ("comfyui", "a1111", "forge"), "int8", ()),
        (SD15, ("kohya", "invokeai", "sdnext"), "int8", ()),
        (SD15, ("comfyui", "diffusers"), "float8", ("diffusers",)),
        (SD15, ("comfyui-bypass",), "float8", ("comfyui-bypass",)),
        (SD15, ("a1111-functional", "forge"), "float8", ("a1111-functional",)),
        (SD15, ("invokeai-sidecar", "diffusers"), "float8", ("invokeai-sidecar", "diffusers")),
        (KOHYA, ("comfyui", "a1111", "forge"), "int8", ()),
        (KOHYA, ("comfyui", "diffusers"), None, ("diffusers",)),  # an unknown family: not observed
        # diffusers' converters multiply: int8 becomes floats there, and float8 cannot be multiplied
        (KOHYA_FLUX, ("comfyui", "diffusers"), "int8", ()),
        (KOHYA_WAN, ("diffusers", "invokeai"), "int8", ()),
        (KOHYA_WAN, ("diffusers", "comfyui-bypass"), None, ("diffusers", "comfyui-bypass")),
        (FLUX, ("comfyui", "a1111", "forge"), "int8", ()),  # a1111 does not read it at all
        (FLUX, ("comfyui", "invokeai"), "float8", ("invokeai",)),
        (FLUX, ("comfyui", "kohya", "sdnext"), "int8", ()),
        (FLUX, ("a1111",), "float8", None),  # no target reads it: all programs that do constrain it
        (BFL, ("comfyui", "a1111", "forge", "diffusers", "kohya"), "int8", ()),
        (BFL, ("comfyui", "invokeai"), "float8", ("invokeai",)),
        (BFL, ("a1111",), "float8", ("comfyui-bypass", "invokeai", "invokeai-sidecar")),
        (Z_IMAGE, ("comfyui", "a1111", "forge"), "int8", ()),
        (Z_IMAGE, ("comfyui", "invokeai"), "float8", ("invokeai",)),
        (QWEN, ("comfyui", "invokeai"), "float8", ("invokeai",)),
        (QWEN, ("comfyui", "diffusers"), "int8", ()),
        (QWEN, ("diffusers", "invokeai"), None, ("diffusers", "invokeai")),
        (WAN, ("comfyui", "invokeai"), "int8", ()),  # InvokeAI uses the alpha of Wan files
        *((f, ("comfyui", "diffusers"), "float8", ("diffusers",)) for f in (FLUX2, WAN, LTX)),
        (NO_FAMILY, ("comfyui", "diffusers"), None, ("diffusers",)),
        (Z_IMAGE, ("comfyui", "sdnext"), None, ("sdnext",)),  # it was not tried there
        (Z_IMAGE, ("sdnext",), None, ("sdnext",)),  # a target is named, not the naming's readers
        (T_QWEN, ("comfyui", "a1111", "forge"), "int8", ()),
        (T_SD3, ("comfyui", "diffusers"), "float8", ("diffusers",)),
        (T_WAN, ("comfyui", "a1111", "forge"), "float8", ("diffusers", "invokeai-sidecar")),
        (PEFT_KOHYA, ("comfyui", "forge"), "int8", ()),
        (PEFT_KOHYA, ("comfyui", "a1111", "forge"), "float8", ("a1111",)),
        (PEFT_KOHYA, ("comfyui", "invokeai", "diffusers"), None, ("invokeai", "diffusers")),
        (UNET, ("comfyui",), "float8", ("diffusers",)),
        (PROCESSORS, ("comfyui", "a1111", "forge"), "int8", ()),
        (PROCESSORS, ("comfyui", "diffusers"), "float8", ("diffusers",)),
        (FILES["diffusers processor"], ("forge", "diffusers"), "int8", ()),
        (FILES["xlabs"], ("comfyui", "diffusers", "invokeai"), "float8", ("diffusers", "invokeai")),
    ],
)
def test_the_first_encoding_that_all_targets_load_exactly(
    file: Layout, targets: tuple[str, ...], expected: str | None, forced_by: tuple[str, ...] | None
) -> None:
    """A target that does not read the original does not count; forced_by names the others."""
    found = verdict(file, targets)
    assert set(found.encodings.values()) == {expected}
    assert found.forced_by == forced_by if forced_by is not None else found.forced_by


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("dialect", FILES)
def test_one_target_alone_decides_by_its_cells(dialect: str, program: str) -> None:
    """The first encoding that it loads exactly; a program that was not observed counts.

    If it reads nothing, the programs that read the file count.
    """
    file = FILES[dialect]
    assert dialects(file) == {dialect}
    cells = {e: cell(dialect, program, e) for e in ENCODINGS}
    if any(c.may_read for c in cells.values()):
        exact = [e for e in ENCODINGS if cells[e].kind == "exact"]
        found = verdict(file, (program,))
        assert set(found.encodings.values()) == {exact[0] if exact else None}
        assert found.forced_by == (() if cells["int8"].kind == "exact" else (program,))
    else:
        assert program not in constraining(file, (program,))
        assert constraining(file, (program,)) == constraining(file, ())


def test_encodings_restrict_the_choice() -> None:
    """In the order given."""
    orders: list[tuple[Sequence[Encoding], str | None]] = [
        (("int8", "float8"), "int8"),
        (("float8", "int8"), "float8"),
        (("float8",), "float8"),
        ((), None),
    ]
    for encodings, expected in orders:
        found = verdict(SD15, ("comfyui",), encodings)
        assert set(found.encodings.values()) == {expected}
        assert found.forced_by == ()
    assert verdict(SD15, ("diffusers",), ("int8",)).forced_by == ("diffusers",)
    assert set(verdict(SD15, ("diffusers",), ("int8",)).encodings.values()) == {None}


def test_modules_of_a_file_may_differ_in_encoding() -> None:
    """diffusers reads int8 in FLUX's transformer, and only floats in the text encoder beside it."""
    found = verdict(FLUX_CLIP, ("comfyui", "diffusers"))
    assert found.encodings == {"lora_unet_double_blocks_0_x": "int8", "lora_te1_x": None}
    assert found.forced_by == ("diffusers",)
    assert set(verdict(FLUX_CLIP, ("comfyui",)).encodings.values()) == {"int8"}


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (layout("text_encoder.x", TO_Q), {"peft transformer: flux"}),  # as the denoiser beside it
        (layout("text_encoder.x", "text_encoder_2.x"), {"peft unet"}),
        (kohya("lora_te1_x"), {"kohya"}),
        (kohya("lora_unet__blocks_0_self_attn_q"), {"kohya"}),  # Wan-Fun
        # No program was observed with these, so they stay in floats.
        (layout(TO_Q, suffixes=DEFAULT), {"other"}),
        (layout(TO_Q, suffixes=(".lora_A", ".lora_B")), {"other"}),
        (kohya("lora_transformer_x"), {"other"}),
        (layout("base_model.model.down_blocks.0.x"), {"other"}),
        (layout("unet:0", suffixes=(":down", ":up")), {"other"}),
    ],
)
def test_names_decide_the_dialect(file: Layout, expected: set[str]) -> None:
    """A file of a dialect without a row stays in floats, because of its targets."""
    assert dialects(file) == expected
    if expected == {"other"}:
        found = verdict(file, ("comfyui", "forge"))
        assert set(found.encodings.values()) == {None}
        assert found.forced_by == ("comfyui", "forge")


def test_factors_that_no_program_reads_stay_in_floats() -> None:
    """The others of the file do not."""
    mixed = read_layout(specs("lora_unet_x", DOWN_UP) | specs("unet.y", A_B))
    assert dialects(mixed) == {"kohya", "peft unet"}
    assert set(verdict(mixed, ("comfyui",)).encodings.values()) == {"int8"}
    unknown = read_layout(specs("lora_unet_x", DOWN_UP) | specs("somewhere.y", A_B))
    found = verdict(unknown, ("comfyui",))
    assert found.encodings == {"lora_unet_x": "int8", "somewhere.y": None}
    assert found.forced_by == ("comfyui",)


def specs(name: str, suffixes: tuple[str, str]) -> dict[str, TensorSpec]:
    return {
        name + suffixes[0]: TensorSpec("F16", (4, 5)),
        name + suffixes[1]: TensorSpec("F16", (6, 4)),
    }


def test_the_table_is_complete_and_has_its_evidence() -> None:
    """A cell that was observed names how, of which version and when; the others nothing."""
    assert {p for row in READS.values() for p in row} == set(PROGRAMS)
    assert list(dict.fromkeys(d.name for d in DIALECTS)) == list(READS)
    for row in READS.values():
        for cells in row.values():
            assert list(cells) == list(ENCODINGS)
            for found in cells.values():
                assert (found.source is None) == (found.kind == "not observed")
                assert found.source is None or all(found.source)
                assert bool(found.detail) == (found.kind in ("refuses", "wrong"))


def test_programs_that_do_not_merge_never_load_int8_exactly() -> None:
    """Their float16 product overflows; what they read in float8 they compute exactly."""
    for dialect in READS:
        for program in ("comfyui-bypass", "a1111-functional", "invokeai-sidecar"):
            assert cell(dialect, program, "int8").kind != "exact"
            assert cell(dialect, program, "float8").kind in (
                "exact",
                "reads nothing",
                "not observed",
            )


def test_real_key_lists_have_a_dialect_where_one_was_observed() -> None:
    """What ComfyUI reads gets int8; what it does not read, floats or float8."""
    found = {
        k.title: set(verdict(read_layout(k.specs), ("comfyui",)).encodings.values()) for k in LISTS
    }
    int8 = ("sdxl.kohya", "sd15.kohya_locon", "flux.kohya", "flux.peft", "flux.bfl")
    processors_and_transformers = (
        "sdxl.olddiffusers",
        "sd21.olddiffusers_bare",
        "sd35m.peft",
        "zimage.peft",
    )
    for title in int8 + processors_and_transformers:
        assert found[title] == {"int8"}, title
    for title in ("sd15.peft", "wan21_i2v_14b.peft", "ltx.peft", "sd15.diffusers_lora"):
        assert found[title] == {"float8"}, title
    for title in ("flux.peft_bare", "loralib", "sd15.peft_base"):
        assert found[title] == {None}, title


LISTS = key_lists.read()
