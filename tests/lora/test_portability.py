"""lensd.lora.portability: int8 only where every program that matters reads it exactly."""

from __future__ import annotations

import pytest

from lensd.lora.layout import Layout, TensorSpec, read_layout
from lensd.lora.portability import PROGRAMS, READS, dialect, int8_verdict


def layout(*names: str, suffixes: tuple[str, str] = (".lora_A.weight", ".lora_B.weight")) -> Layout:
    tensors = {}
    for name in names:
        tensors[name + suffixes[0]] = TensorSpec("F16", (4, 5))
        tensors[name + suffixes[1]] = TensorSpec("F16", (6, 4))
    return read_layout(tensors)


KOHYA = layout("lora_unet_x", suffixes=(".lora_down.weight", ".lora_up.weight"))
FLUX = layout("transformer.x")
TEXT_FIRST = layout("text_encoder.x", "transformer.x")
UNET = layout("text_encoder.x", "unet.x")
BARE = layout("single_transformer_blocks.0.x")


@pytest.mark.parametrize(
    ("file", "targets", "int8", "forced_by"),
    [
        (KOHYA, ("comfyui", "a1111", "forge"), True, ()),
        (KOHYA, ("kohya", "invokeai", "sdnext"), True, ()),
        (KOHYA, ("comfyui", "diffusers"), False, ("diffusers",)),
        (KOHYA, ("comfyui-bypass",), False, ("comfyui-bypass",)),
        (KOHYA, (), False, None),  # every program constrains it
        (FLUX, ("comfyui", "a1111", "forge"), True, ()),  # a1111 does not read it at all
        (FLUX, ("a1111",), False, None),  # no target reads it: all that do constrain it
        (TEXT_FIRST, ("comfyui",), True, ()),
        (UNET, ("comfyui",), False, ("diffusers",)),
        (BARE, ("comfyui",), False, ()),  # nobody is known to read it
    ],
)
def test_targets_constrain_what_they_read(
    file: Layout,
    targets: tuple[str, ...],
    int8: bool,  # noqa: FBT001
    forced_by: tuple[str, ...] | None,
) -> None:
    """A program that does not read the original has no say, unless no target does."""
    verdict = int8_verdict(file, targets)
    assert verdict.int8 == int8
    if forced_by is not None:
        assert verdict.forced_by == forced_by
    else:
        assert verdict.forced_by


def test_the_dialect_is_the_denoisers() -> None:
    """Text encoders lie beside any denoiser and often come first."""
    assert dialect(KOHYA) == "kohya"
    assert dialect(TEXT_FIRST) == "peft transformer"
    assert dialect(layout("text_encoder.x", "text_encoder_2.x")) == "peft unet"


def test_the_table_names_known_programs_only() -> None:
    """And each program reads something; unmerged paths are never safe."""
    assert {p for row in READS.values() for p in row} == set(PROGRAMS)
    for row in READS.values():
        assert not any(exact for p, exact in row.items() if p in ("comfyui-bypass", "diffusers"))
