"""READS: what each program does with each dialect, as evidence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from lensd.lora.portability.cells import PROGRAMS, Cell, Encoding, Kind, Program, Source

Cells = Mapping[Encoding, Cell]

VERSIONS = {
    "comfyui": "0.29, 0.3.64",
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
DATE = "2026-11-26"


class Entry(NamedTuple):
    """A program's cells for int8 and float8, before the version is added."""

    int8: tuple[Kind, str]
    float8: tuple[Kind, str]


OK: tuple[Kind, str] = ("exact", "")
NONE: tuple[Kind, str] = ("reads nothing", "")
UNKNOWN: tuple[Kind, str] = ("not observed", "")
NOTHING = Entry(NONE, NONE)
MERGED = Entry(OK, OK)
INT8 = Entry(OK, UNKNOWN)
FLOAT8 = Entry(("refuses", "RuntimeError: only tensors of floating point dtype"), OK)
UNMERGED = Entry(("wrong", "up(down(x)) overflows in float16"), OK)
FLOATS = Entry(("refuses", ""), UNKNOWN)

_NO_OTHER: Mapping[Program, Entry] = dict.fromkeys(PROGRAMS, NOTHING)
_OTHER_PREFIXES: Mapping[Program, Entry] = {
    "a1111": NOTHING,
    "a1111-functional": NOTHING,
    "kohya": NOTHING,
}

_ENTRIES: Mapping[str, Mapping[Program, Entry]] = {
    "kohya": {
        "comfyui": MERGED,
        "comfyui-bypass": UNMERGED,
        "a1111": MERGED,
        "a1111-functional": UNMERGED,
        "forge": MERGED,
        "kohya": MERGED,
        "diffusers": FLOAT8,
        "invokeai": MERGED,
        "invokeai-sidecar": UNMERGED,
        "sdnext": MERGED,
    },
    "peft transformer": {
        "comfyui": MERGED,
        "comfyui-bypass": UNMERGED,
        "forge": MERGED,
        "diffusers": FLOAT8,
        "invokeai": FLOATS,
        "invokeai-sidecar": FLOATS,
        **_OTHER_PREFIXES,
        "sdnext": NOTHING,
    },
    "peft diffusion_model: flux": {
        **_OTHER_PREFIXES,
        "comfyui": MERGED,
        "comfyui-bypass": UNMERGED,
        "forge": MERGED,
        "diffusers": NOTHING,
        "invokeai": FLOATS,
        "invokeai-sidecar": FLOATS,
        "sdnext": NOTHING,
    },
    "peft diffusion_model: qwenimage, zimage": {
        **_OTHER_PREFIXES,
        "comfyui": MERGED,
        "comfyui-bypass": UNMERGED,
        "forge": MERGED,
        "diffusers": INT8,
        "invokeai": FLOATS,
        "invokeai-sidecar": FLOATS,
    },
    "peft diffusion_model: other": {
        **_OTHER_PREFIXES,
        "comfyui": MERGED,
        "comfyui-bypass": UNMERGED,
        "forge": MERGED,
        "diffusers": FLOATS,
        "invokeai": FLOATS,
        "invokeai-sidecar": FLOATS,
    },
    "peft lora_unet": {
        "comfyui": MERGED,
        "comfyui-bypass": UNMERGED,
        "a1111": FLOATS,
        "a1111-functional": FLOATS,
        "forge": MERGED,
        "kohya": NOTHING,
        "diffusers": FLOATS,
        "invokeai": FLOATS,
        "invokeai-sidecar": FLOATS,
        "sdnext": NOTHING,
    },
    "peft unet": {**_NO_OTHER, "diffusers": FLOAT8},
    "diffusers transformer": {**_NO_OTHER, "diffusers": FLOATS, "sdnext": FLOATS},
    "diffusers": {**_NO_OTHER, "diffusers": FLOAT8},
    "xlabs": {**_NO_OTHER, "diffusers": FLOATS},
}


def _cells(program: str, entry: Entry) -> Cells:
    source = Source("run", VERSIONS[program], DATE)
    pairs: tuple[tuple[Encoding, tuple[Kind, str]], ...] = (
        ("int8", entry.int8),
        ("float8", entry.float8),
    )
    return {e: Cell(k, d, None if k == "not observed" else source) for e, (k, d) in pairs}


# dialect -> program -> encoding -> what the program does
READS: Mapping[str, Mapping[str, Cells]] = {
    dialect: {program: _cells(program, entry) for program, entry in row.items()}
    for dialect, row in _ENTRIES.items()
}
