"""The table of docs/formats.md for people says what the code's table says."""

from __future__ import annotations

from pathlib import Path

import pytest

from lensd.lora.portability import PROGRAMS, cell

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"
NAMES = {
    "ComfyUI": "comfyui",
    "ComfyUI, bypass node": "comfyui-bypass",
    "AUTOMATIC1111": "a1111",
    "AUTOMATIC1111, functional": "a1111-functional",
    "Forge": "forge",
    "kohya sd-scripts": "kohya",
    "diffusers": "diffusers",
    "InvokeAI": "invokeai",
    "InvokeAI, sidecar": "invokeai-sidecar",
    "SD.Next": "sdnext",
}
WORDS = {True: ("exact", "rounded", "the same"), False: ("refuses", "does not load right")}


def rows() -> dict[str, list[str]]:
    """Program -> the cells behind it."""
    section = PAGE.read_text(encoding="utf-8").split("## Your program")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]
    return {NAMES[name]: rest for name, *rest in cells}


def test_every_program_has_a_row() -> None:
    assert set(PROGRAMS) == set(rows())


@pytest.mark.parametrize("program", PROGRAMS)
def test_int8_is_told_as_it_is(program: str) -> None:
    """Exact, rounded or not at all: in kohya naming, and in FLUX's peft naming."""
    _, kohya, flux, remedy = rows()[program]
    of_kohya, of_flux = (cell(d, program, "int8") for d in ("kohya", "peft transformer"))
    assert kohya.startswith(WORDS[of_kohya.kind == "exact"])
    if of_flux.may_read:
        assert flux.startswith(WORDS[of_flux.kind == "exact"])
    else:
        assert flux == "does not read the naming at all"
    loads = all(c.kind == "exact" or not c.may_read for c in (of_kohya, of_flux))
    assert (remedy == "-") == loads
