"""The table of docs/formats.md for people says what the code's table says."""

from __future__ import annotations

from pathlib import Path

import pytest

from lensd.lora.portability import PROGRAMS, READS

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
    reads_kohya = READS["kohya"][program]
    assert reads_kohya is not None  # every program reads this naming
    assert kohya.startswith(WORDS[reads_kohya])
    reads = READS["peft transformer"].get(program)
    if reads is None:
        assert flux == "does not read the naming at all"
    else:
        assert flux.startswith(WORDS[reads])
    assert (remedy == "-") == (reads_kohya and reads is not False)
