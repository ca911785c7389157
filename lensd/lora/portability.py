"""Programs x namings x encodings: which program reads which file, and int8 exactly. As data.

"Exactly" is a relative delta error against the file's float64 meaning of at most 1e-6 (float32),
5e-4 (float16) or 5e-3 (bfloat16), and nothing non-finite. Observed with each program's own
loading code (the versions stand in docs/formats.md); a program that is absent from a row does not
read that dialect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lensd.lora.layout import Layout

PROGRAMS = (
    "comfyui",
    "comfyui-bypass",
    "a1111",
    "a1111-functional",
    "forge",
    "kohya",
    "diffusers",
    "invokeai",
    "invokeai-sidecar",
    "sdnext",
)

# dialect -> program -> whether it loads int8 factors with the scale in alpha exactly.
READS: Mapping[str, Mapping[str, bool]] = {
    "kohya": {
        "comfyui": True,
        "comfyui-bypass": False,  # unmerged float16: B(A(x)) overflows
        "a1111": True,
        "a1111-functional": False,
        "forge": True,
        "kohya": True,
        "diffusers": False,  # refuses int8 parameters
        "invokeai": True,
        "invokeai-sidecar": False,
        "sdnext": True,
    },
    "peft transformer": {
        "comfyui": True,
        "comfyui-bypass": False,
        "forge": True,
        "diffusers": False,
        "invokeai": False,  # raises on the .alpha that carries the scale
        "invokeai-sidecar": False,
    },
    "peft diffusion_model": {"comfyui": True, "comfyui-bypass": False, "forge": True},
    "peft unet": {"diffusers": False},
    "diffusers": {"diffusers": False},
}


class Verdict(NamedTuple):
    """Whether int8 may be used, and the programs that stand against it."""

    int8: bool
    forced_by: tuple[str, ...]


def dialect(layout: Layout) -> str:
    """The key of READS for a file: its naming, and for peft the component its keys begin with.

    Text encoders go along with any denoiser; alone they are written as beside a `unet`.
    """
    if layout.naming != "peft":
        return layout.naming
    components = (m.name.partition(".")[0] for m in layout.modules)
    denoiser = next((c for c in components if not c.startswith("text_encoder")), "unet")
    return f"peft {denoiser}"


def int8_verdict(layout: Layout, targets: Sequence[str]) -> Verdict:
    """Whether every program that constrains the file loads int8 exactly.

    A target constrains a file if it reads the original at all; if none of the targets does, every
    program that does constrains it. A file that no known program reads stays in floats.
    """
    readers = READS.get(dialect(layout), {})
    constraining = [t for t in targets if t in readers] or list(readers)
    against = tuple(p for p in constraining if not readers[p])
    return Verdict(int8=bool(constraining) and not against, forced_by=against)
