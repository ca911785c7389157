"""lensd's own outputs for the families beside FLUX: what diffusers and InvokeAI apply of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.engine import asking
from tests.loading import files, invokeai, pipelines, transformers
from tests.loading.cases import CASES, Case, encode, make
from tests.loading.test_cells import PROGRAMS, relative
from tests.loading.test_diffusers import AGREE

# naming, family, program, and the encoding of the output for ComfyUI and that program
OUTPUTS = (
    ("kohya", "wan", "diffusers", "int8"),
    ("kohya", "wan", "invokeai", "int8"),
    ("transformer", "wan", "diffusers", "float8"),
    ("transformer", "wan", "invokeai", "int8"),
    ("diffusion_model", "wan", "diffusers", "float8"),
    ("diffusion_model", "wan", "invokeai", "int8"),
    ("transformer", "ltx", "diffusers", "float8"),
    ("diffusion_model", "ltx", "diffusers", "float8"),
)
MARKS = {p.values[0]: p.marks for p in PROGRAMS}
# The names of Wan's layers in diffusers.
RENAMED: tuple[tuple[str, str], ...] = (
    ("self_attn", "attn1"),
    ("cross_attn", "attn2"),
    (r"\.o$", ".to_out.0"),
)
RENAMED += ((r"\.([qkv])$", r".to_\1"), (r"ffn\.0", "ffn.net.0.proj"), (r"ffn\.2", "ffn.net.2"))


@pytest.mark.parametrize(
    ("naming", "family", "program", "encoding"),
    [pytest.param(*case, marks=MARKS[case[2]]) for case in OUTPUTS],
)
def test_outputs_apply_with_the_reported_error(
    naming: str, family: str, program: str, encoding: str, tmp_path: Path
) -> None:
    """As they are, in the encoding that the table of programs gives."""
    original = block(naming, family)
    source, out = tmp_path / "a.safetensors", tmp_path / "out.safetensors"
    save_file(original, source)
    numbers = asking.compress(source, out, mode="int8", targets=("comfyui", program))
    assert numbers["family"] == family
    assert numbers["encodings"][encoding] == numbers["modules"]
    meant = applied(program, family, original)
    assert len(meant) == numbers["modules"]
    found = relative(applied(program, family, load_file(out)), meant)
    assert found == pytest.approx(numbers["delta_error"], abs=AGREE)


def block(naming: str, family: str) -> dict[str, Tensor]:
    """A file for one block of real width."""
    found: dict[str, Tensor] = {}
    for at, (name, shape) in enumerate(transformers.wide(family).items()):
        f = files.factors((*shape, ()), 4, at, torch.float16)
        if naming == "kohya":
            found |= files.kohya(f, f"lora_unet_{name.replace('.', '_')}", files.ALPHA)
        elif naming == "transformer":
            found |= files.peft(f, f"transformer.{in_diffusers(name, family)}")
        else:
            found |= files.peft(f, f"diffusion_model.{name}")
    return found


def in_diffusers(name: str, family: str) -> str:
    """LTX has the same names there."""
    for old, new in RENAMED if family == "wan" else ():
        name = re.sub(old, new, name)
    return name


def applied(program: str, family: str, tensors: dict[str, Tensor]) -> list[Tensor]:
    """The delta weights in float32."""
    if program == "invokeai":
        return [d.double() for d in invokeai.load(family, tensors, torch.float32).deltas()]
    return list(pipelines.applied_by(transformers.wide_pipeline(family), tensors).values())


def test_int8_beside_a_text_encoder_in_16_bits() -> None:
    """diffusers loads FLUX's transformer in int8; a text encoder in 8 bits makes it refuse."""
    case = next(c for c in CASES if (c.dialect, c.family) == ("kohya: flux and others", "flux"))
    transformer, meant = make(case, "int8").tensors, pipelines.applied("flux", floats(case))
    clip = {name: files.factors((48, 48, ()), 4, 0, torch.float32) for name in CLIP}
    in_16_bits = {k: t for name, f in clip.items() for k, t in files.kohya(f, name, 4.0).items()}
    found = pipelines.applied("flux", transformer | in_16_bits)
    assert len(found) == len(meant) + len(CLIP)
    assert relative([found[k] for k in meant], list(meant.values())) < 1e-6
    for encoding in ("int8", "float8"):
        encoded = dict(in_16_bits)
        for name, f in clip.items():
            up, down, _ = encode(f, encoding, 4.0)
            encoded |= {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}
        with pytest.raises((RuntimeError, NotImplementedError), match=r"be cast|not implemented"):
            pipelines.applied("flux", transformer | encoded)


CLIP = [f"lora_te1_text_model_encoder_layers_0_self_attn_{x}_proj" for x in ("q", "k", "v", "out")]


def floats(case: Case) -> dict[str, torch.Tensor]:
    """The int8 file of a case in float32."""
    return make(case, "int8").in_floats
