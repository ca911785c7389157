"""READS: what each program does with each dialect in each encoding, and how that is known.

A row says nothing about the models that a program has: where a program knows no model of a family,
its cell says what its loader does with such factors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from lensd.lora.portability.cells import NOT_OBSERVED, Cell, Cells, How, Kind, Program, Source

DATE = "2026-11-26"  # every cell was observed or observed again on this day
VERSIONS: Mapping[Program, str] = {
    "comfyui": "0.29 and 0.3.64",
    "comfyui-bypass": "0.29",
    "a1111": "1.10.1",
    "a1111-functional": "1.10.1",
    "forge": "June 2025",
    "kohya": "sd-scripts, February 2026",
    "diffusers": "0.42.1 with peft 0.21.2",
    "invokeai": "6.14.2",
    "invokeai-sidecar": "6.14.2",
    "sdnext": "July 2026",
}
# What was read, where it is not the version that ran.
READ_VERSIONS: Mapping[Program, str] = {
    "comfyui": "commit 17358c8",
    "comfyui-bypass": "commit 17358c8",
    "a1111": "commit 1b7f430",
    "a1111-functional": "commit 1b7f430",
    "forge": "commit 00f1cd3",
}


class _State(NamedTuple):
    kind: Kind
    detail: str = ""


class _Entry(NamedTuple):
    """A program's states for int8 and for float8, and how each is known."""

    int8: _State
    float8: _State
    how: How
    how_float8: How


_EXACT = _State("exact")
_NOTHING = _State("reads nothing")
_UNKNOWN = _State("not observed")
_OVERFLOWS = _State("wrong", "up(down(x)) overflows in float16")
_ALPHA_DROPPED = _State("wrong", "the alpha is dropped: more than 10,000 times too strong")
_MULTIPLIES = _State("refuses", "not implemented for 'Float8_e4m3fn'")


def _refuses(message: str) -> _State:
    return _State("refuses", message)


def _both(state: _State, how: How) -> _Entry:
    return _Entry(state, state, how, how)


MERGED = _both(_EXACT, "run")
MERGED_INT8 = _Entry(_EXACT, _EXACT, "run", "read")  # float8 ran with other dialects
MERGED_READ = _both(_EXACT, "read")
MERGED_TEST = _both(_EXACT, "test")
NOTHING = _both(_NOTHING, "run")
NOTHING_READ = _both(_NOTHING, "read")
NOTHING_TEST = _both(_NOTHING, "test")
UNKNOWN = _both(_UNKNOWN, "run")
BYPASS = _Entry(_OVERFLOWS, _EXACT, "run", "run")
BYPASS_INT8 = _Entry(_OVERFLOWS, _EXACT, "run", "read")
UNMERGED_READ = _Entry(_OVERFLOWS, _EXACT, "read", "read")
UNMERGED_TEST = _Entry(_OVERFLOWS, _EXACT, "test", "test")
ALPHA_DROPPED = _Entry(_ALPHA_DROPPED, _EXACT, "test", "test")
# diffusers: int8 tensors cannot be parameters, its converters multiply, or it expects no alpha.
CAST = _Entry(
    _refuses("gradients|'lora'|alpha|LoKr|Target modules|be cast|be empty"), _EXACT, "test", "test"
)
CONVERTED = _Entry(_EXACT, _MULTIPLIES, "test", "test")
NO_ALPHA = _Entry(
    _refuses("unsupported FLUX format|Unsupported lora format"), _EXACT, "test", "test"
)

Row = Mapping[Program, _Entry]
# Programs that find no module by keys of `transformer.`, `diffusion_model.` or diffusers' names.
_KOHYA_ONLY: Row = {"a1111": NOTHING, "a1111-functional": NOTHING, "kohya": NOTHING}
_COMFYUI: Row = {"comfyui": MERGED_INT8, "comfyui-bypass": BYPASS_INT8}
_COMFYUI_READ: Row = {"comfyui": MERGED_READ, "comfyui-bypass": UNMERGED_READ}
_NO_COMFYUI: Row = {
    "comfyui": NOTHING_READ,
    "comfyui-bypass": NOTHING_READ,
    "forge": NOTHING_READ,
}
_INVOKEAI_NOTHING: Row = {"invokeai": NOTHING_TEST, "invokeai-sidecar": NOTHING_TEST}
_INVOKEAI_FLUX: Row = {"invokeai": NO_ALPHA, "invokeai-sidecar": NO_ALPHA}
_INVOKEAI_DROPS: Row = {"invokeai": ALPHA_DROPPED, "invokeai-sidecar": ALPHA_DROPPED}
_INVOKEAI: Row = {"invokeai": MERGED_TEST, "invokeai-sidecar": UNMERGED_TEST}


def _kohya(merged: _Entry, bypass: _Entry) -> Row:
    return {
        **_INVOKEAI,
        "comfyui": merged,
        "comfyui-bypass": bypass,
        "a1111": merged,
        "a1111-functional": UNMERGED_READ,
        "forge": merged,
        "kohya": merged,
        "sdnext": merged,
    }


_KOHYA: Row = _kohya(MERGED_INT8, BYPASS_INT8)
_SDNEXT_INT8 = _Entry(_EXACT, _refuses("observed on FLUX"), "run", "run")
_SDNEXT_REFUSES_FLOAT8 = _Entry(_UNKNOWN, _refuses("observed on FLUX"), "run", "run")
_TEXT_ENCODER = _both(_refuses("can't be cast|not implemented"), "test")
_ONLY_DIFFUSERS: Row = {
    **_KOHYA_ONLY,
    **_NO_COMFYUI,
    **_INVOKEAI_NOTHING,
    "diffusers": CAST,
    "sdnext": NOTHING,
}

ROWS: Mapping[str, Row] = {
    "kohya: sd": {**_kohya(MERGED, BYPASS), "diffusers": CAST},
    "kohya: flux and others": {**_KOHYA, "diffusers": CONVERTED, "sdnext": _SDNEXT_INT8},
    "kohya: their text encoders": {**_KOHYA, "diffusers": _TEXT_ENCODER, "sdnext": _SDNEXT_INT8},
    "kohya": {**_KOHYA, "invokeai": MERGED_READ, "invokeai-sidecar": UNMERGED_READ},
    "peft transformer: flux": {
        **_KOHYA_ONLY,
        **_COMFYUI,
        **_INVOKEAI_FLUX,
        "comfyui": MERGED,
        "forge": MERGED,
        "diffusers": CAST,
        "sdnext": NOTHING,
    },
    "peft transformer: flux2": {
        **_KOHYA_ONLY,
        **_COMFYUI_READ,
        **_INVOKEAI_FLUX,
        "forge": NOTHING_READ,
        "diffusers": CAST,
    },
    "peft transformer: qwenimage, zimage": {
        **_KOHYA_ONLY,
        **_COMFYUI_READ,
        **_INVOKEAI_DROPS,
        "forge": NOTHING_READ,
        "diffusers": CAST,
    },
    "peft transformer: sd3": {
        **_KOHYA_ONLY,
        **_COMFYUI_READ,
        **_INVOKEAI_NOTHING,
        "forge": NOTHING_READ,
        "diffusers": CAST,
    },
    "peft transformer: wan": {**_KOHYA_ONLY, **_NO_COMFYUI, **_INVOKEAI, "diffusers": CAST},
    "peft transformer: video": {
        **_KOHYA_ONLY,
        **_NO_COMFYUI,
        **_INVOKEAI_NOTHING,
        "diffusers": CAST,
    },
    "peft default transformer": {
        **_KOHYA_ONLY,
        **_COMFYUI_READ,
        **_INVOKEAI_FLUX,
        "forge": NOTHING_READ,
        "diffusers": NOTHING_TEST,
    },
    "peft diffusion_model: flux": {
        **_KOHYA_ONLY,
        **_COMFYUI,
        **_INVOKEAI_FLUX,
        "forge": MERGED_INT8,
        "diffusers": NOTHING_TEST,
        "sdnext": NOTHING,
    },
    "peft diffusion_model: flux2": {
        **_KOHYA_ONLY,
        **_COMFYUI,
        **_INVOKEAI_FLUX,
        "forge": MERGED_INT8,
        "diffusers": CAST,
    },
    "peft diffusion_model: qwenimage, zimage": {
        **_KOHYA_ONLY,
        **_COMFYUI,
        **_INVOKEAI_DROPS,
        "forge": MERGED_INT8,
        "diffusers": CONVERTED,
    },
    "peft diffusion_model: wan": {
        **_KOHYA_ONLY,
        **_COMFYUI,
        **_INVOKEAI,
        "forge": MERGED_INT8,
        "diffusers": CAST,
    },
    "peft diffusion_model: ltx": {
        **_KOHYA_ONLY,
        **_COMFYUI,
        **_INVOKEAI_NOTHING,
        "forge": MERGED_INT8,
        "diffusers": CAST,
    },
    "peft diffusion_model: other": {**_KOHYA_ONLY, **_COMFYUI, "forge": MERGED_INT8},
    "peft lora_unet": {
        **_COMFYUI,
        "forge": MERGED_INT8,
        "a1111": _Entry(_ALPHA_DROPPED, _EXACT, "read", "read"),
        "a1111-functional": _Entry(_ALPHA_DROPPED, _EXACT, "read", "read"),
        "kohya": NOTHING,
        "diffusers": _Entry(_refuses("an .alpha"), _UNKNOWN, "run", "run"),
        "invokeai": _Entry(_refuses("an .alpha"), _UNKNOWN, "run", "run"),
        "invokeai-sidecar": _Entry(_refuses("an .alpha"), _UNKNOWN, "run", "run"),
        "sdnext": NOTHING,
    },
    "peft unet": _ONLY_DIFFUSERS,  # ComfyUI and Forge find no attention in it
    "diffusers transformer: flux": {
        **_KOHYA_ONLY,
        **_COMFYUI_READ,
        **_INVOKEAI_NOTHING,
        "forge": MERGED_READ,
        "diffusers": CAST,
        "sdnext": _SDNEXT_REFUSES_FLOAT8,
    },
    "diffusers transformer: flux2": {
        **_KOHYA_ONLY,
        **_COMFYUI_READ,
        **_INVOKEAI_FLUX,
        "forge": NOTHING_READ,
        "diffusers": CAST,
    },
    "diffusers transformer: others": {
        **_KOHYA_ONLY,
        **_COMFYUI_READ,
        **_INVOKEAI_NOTHING,
        "forge": NOTHING_READ,
        "diffusers": CAST,
    },
    "diffusers transformer: video": {
        **_KOHYA_ONLY,
        **_NO_COMFYUI,
        **_INVOKEAI_NOTHING,
        "diffusers": CAST,
    },
    "diffusers unet processor": {**_ONLY_DIFFUSERS, **_COMFYUI, "forge": MERGED_INT8},
    "diffusers processor": {
        **_ONLY_DIFFUSERS,
        **_COMFYUI,
        "forge": MERGED_INT8,
        "diffusers": NOTHING_TEST,
    },
    "diffusers unet": _ONLY_DIFFUSERS,
    "xlabs": {**_ONLY_DIFFUSERS, **_INVOKEAI_FLUX},
}

# dialect -> programs that do not load int8, but apply an alpha that the original did not have
_ADDED_ALPHA: Mapping[str, tuple[Program, ...]] = {
    "peft transformer: flux": ("diffusers",),
    "diffusers transformer: flux": ("diffusers",),
}


def applies_added_alpha(dialect: str, program: str) -> bool:
    """Whether the program applies an alpha that the original did not have to float8 factors.

    A program that does so with int8, whose scale is such an alpha, does it with float8 too.
    """
    entry = next((e for name, e in ROWS.get(dialect, {}).items() if name == program), None)
    if entry is None or entry.float8 != _EXACT:
        return False
    return entry.int8 in (_EXACT, _OVERFLOWS) or program in _ADDED_ALPHA.get(dialect, ())


def _cells(program: Program, entry: _Entry) -> Cells:
    def cell(state: _State, how: How) -> Cell:
        if state == _UNKNOWN:
            return NOT_OBSERVED
        version = VERSIONS[program]
        if how == "read":
            version = READ_VERSIONS.get(program, version)
        return Cell(state.kind, state.detail, Source(how, version, DATE))

    return {
        "int8": cell(entry.int8, entry.how),
        "float8": cell(entry.float8, entry.how_float8),
    }


# dialect -> program -> encoding -> what the program does; absent programs were not observed
READS: Mapping[str, Mapping[str, Cells]] = {
    dialect: {program: _cells(program, entry) for program, entry in row.items()}
    for dialect, row in ROWS.items()
}
