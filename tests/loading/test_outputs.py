"""lensd's own outputs for the families beside FLUX: what diffusers and InvokeAI apply of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.engine import asking
from tests.loading import files, pipelines
from tests.loading.cases import CASES, Case, encode, make
from tests.loading.test_cells import LOADERS, PROGRAMS, relative
from tests.loading.test_diffusers import AGREE

# dialect, family, program, and the encoding of the output for ComfyUI and that program
OUTPUTS = (
    ("kohya: flux and others", "wan", "diffusers", "int8"),
    ("kohya: flux and others", "qwenimage", "diffusers", "int8"),
    ("kohya: flux and others", "wan", "invokeai", "int8"),
    ("peft transformer: flux2", "flux2", "diffusers", "float8"),
    ("peft transformer: qwenimage, zimage", "qwenimage", "diffusers", "float8"),
    ("peft transformer: wan", "wan", "diffusers", "float8"),
    ("peft transformer: wan", "wan", "invokeai", "int8"),
    ("peft diffusion_model: qwenimage, zimage", "qwenimage", "diffusers", "int8"),
    ("peft diffusion_model: qwenimage, zimage", "qwenimage", "invokeai", "float8"),
    ("peft diffusion_model: wan", "wan", "diffusers", "float8"),
    ("peft diffusion_model: wan", "wan", "invokeai", "int8"),
)
MARKS = {p.values[0]: p.marks for p in PROGRAMS}


@pytest.mark.parametrize(
    ("dialect", "family", "program", "encoding"),
    [pytest.param(*case, marks=MARKS[case[2]]) for case in OUTPUTS],
)
def test_outputs_apply_with_the_reported_error(
    dialect: str, family: str, program: str, encoding: str, tmp_path: Path
) -> None:
    """As they are, in the encoding that the table of programs gives."""
    case = next(c for c in CASES if (c.dialect, c.family) == (dialect, family))
    original = make(case, None).tensors
    source, out = tmp_path / "a.safetensors", tmp_path / "out.safetensors"
    save_file(original, source)
    numbers = asking.compress(source, out, mode="int8", targets=("comfyui", program))
    assert numbers["encodings"][encoding] == numbers["modules"]
    load = LOADERS[program]
    meant = load(case, original, torch.float32)
    found = relative(load(case, load_file(out), torch.float32), meant)
    assert found == pytest.approx(numbers["delta_error"], abs=AGREE)


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
