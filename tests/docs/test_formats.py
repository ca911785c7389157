"""The description of the 8-bit format is enough to read it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from lensd.lora import marks
from tests.docs import markdown
from tests.docs.rendering import REPOSITORY
from tests.support.realistic import small_lora

PAGE = (REPOSITORY / "docs/formats.md").read_text(encoding="utf-8")


def _decoder() -> Any:
    names: dict[str, Any] = {}
    source = next(block.text for block in markdown.blocks(PAGE) if block.language == "python")
    exec(compile(source, "docs/formats.md", "exec"), names)  # noqa: S102  it is what is tested
    return names["deltas"]


def _compressed(path: Path, mode: str) -> Path:
    out = path.with_name(f"{mode}.safetensors")
    command = [sys.executable, "-m", "lensd", "compress", str(path), "--mode", mode]
    subprocess.run([*command, "-o", str(out)], check=True, capture_output=True)
    return out


@pytest.mark.parametrize("mode", ["rank", "int8", "ultra"])
def test_the_decoder_on_the_page_reads_outputs(tmp_path: Path, mode: str) -> None:
    """It gives the original's delta weights, as near as the mode says."""
    made = small_lora(tmp_path / "a.safetensors")
    found = _decoder()(_compressed(made.path, mode))
    assert set(made.deltas) == set(found)
    apart = sum(float(((found[n] - d.numpy()) ** 2).sum()) for n, d in made.deltas.items())
    norm = sum(float((d.numpy() ** 2).sum()) for d in made.deltas.values())
    assert (apart / norm) ** 0.5 < (0.03 if mode == "int8" else 0.12)


def test_tensors_of_an_8_bit_file_are_as_the_page_says(tmp_path: Path) -> None:
    """I8 within 127 for both factors, one F32 number for alpha, nothing else."""
    made = small_lora(tmp_path / "a.safetensors")
    tensors = load_file(_compressed(made.path, "ultra"))
    assert len(tensors) == 3 * len(made.deltas)
    for name in made.deltas:
        up, down = tensors[f"{name}.lora_up.weight"], tensors[f"{name}.lora_down.weight"]
        alpha = tensors[f"{name}.alpha"]
        assert [t.dtype.name for t in (up, down, alpha)] == ["int8", "int8", "float32"]
        assert alpha.shape == ()
        assert max(np.abs(up.astype(int)).max(), np.abs(down.astype(int)).max()) <= 127


def test_the_recipe_for_float_factors_keeps_the_delta(tmp_path: Path) -> None:
    """sqrt(a / A) times the integers, with alpha A, is the same delta weight."""
    made = small_lora(tmp_path / "a.safetensors")
    path = _compressed(made.path, "ultra")
    with safe_open(path, framework="numpy") as file:
        own = float(file.metadata()["lensd.alpha"])
    deltas, tensors = _decoder()(path), load_file(path)
    for name in made.deltas:
        rank = tensors[f"{name}.lora_down.weight"].shape[0]
        step = np.sqrt(float(tensors[f"{name}.alpha"]) / own)
        up = tensors[f"{name}.lora_up.weight"].reshape(-1, rank) * step
        down = tensors[f"{name}.lora_down.weight"].reshape(rank, -1) * step
        np.testing.assert_allclose(own / rank * up @ down, deltas[name], rtol=1e-5, atol=1e-9)


def test_every_mark_is_on_the_page() -> None:
    """Each key that lensd adds to the metadata has its row."""
    keys = {v for v in vars(marks).values() if isinstance(v, str) and v.startswith("lensd.")}
    keys -= {marks.__name__, marks.__package__}
    rows = markdown.first_cells(markdown.section(PAGE, "Marks in the metadata"))
    assert keys == {row for row in rows if row.startswith("lensd.")}
