"""The description of the 8-bit format is enough to read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch_file

from lensd.lora import marks
from tests.docs import markdown
from tests.docs.rendering import REPOSITORY
from tests.support import prepared
from tests.support.realistic import small_lora

PAGE = (REPOSITORY / "docs/formats.md").read_text(encoding="utf-8")


def _decoder() -> Any:
    names: dict[str, Any] = {}
    source = next(block.text for block in markdown.blocks(PAGE) if block.language == "python")
    exec(compile(source, "docs/formats.md", "exec"), names)  # noqa: S102  it is what is tested
    return names["deltas"]


class Outputs:
    """A small LoRA and what each mode makes of it, once it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.made = small_lora(folder / "a.safetensors")

    def of(self, mode: str) -> Path:
        out = self.made.path.with_name(f"{mode}.safetensors")
        if not out.exists():
            options = ["--encodings", "float8"] if mode == "float8" else ["--mode", mode]
            words: list[str | Path] = ["compress", self.made.path, *options, "-o", out]
            prepared.run(words, self.made.path.parent).check_returncode()
        return out


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    """In a folder of their own."""
    return Outputs(tmp_path_factory.mktemp("outputs"))


@pytest.mark.parametrize(
    "mode",
    [*(pytest.param(m, marks=pytest.mark.slow) for m in ("rank", "int8")), "ultra", "float8"],
)
def test_the_decoder_on_the_page_reads_outputs(outputs: Outputs, mode: str) -> None:
    """It gives the original's delta weights, as near as the mode says."""
    made = outputs.made
    found = _decoder()(outputs.of(mode))
    assert set(made.deltas) == set(found)
    apart = sum(float(((found[n] - d.numpy()) ** 2).sum()) for n, d in made.deltas.items())
    norm = sum(float((d.numpy() ** 2).sum()) for d in made.deltas.values())
    assert (apart / norm) ** 0.5 < (0.03 if mode == "int8" else 0.12)


def test_tensors_of_an_8_bit_file_are_as_the_page_says(outputs: Outputs) -> None:
    """I8 within 127 for both factors, one F32 number for alpha, nothing else."""
    made, tensors = outputs.made, load_file(outputs.of("ultra"))
    assert len(tensors) == 3 * len(made.deltas)
    for name in made.deltas:
        up, down = tensors[f"{name}.lora_up.weight"], tensors[f"{name}.lora_down.weight"]
        alpha = tensors[f"{name}.alpha"]
        assert [t.dtype.name for t in (up, down, alpha)] == ["int8", "int8", "float32"]
        assert alpha.shape == ()
        assert max(np.abs(up.astype(int)).max(), np.abs(down.astype(int)).max()) <= 127


def test_tensors_of_a_float8_file_are_as_the_page_says(outputs: Outputs) -> None:
    """F8_E4M3 for both factors, one alpha for all modules; numpy cannot read it, torch can."""
    path = outputs.of("float8")
    tensors = load_torch_file(path)
    alphas = {float(t) for key, t in tensors.items() if key.endswith(".alpha")}
    factors = [t for key, t in tensors.items() if not key.endswith(".alpha")]
    assert len(alphas) == 1
    assert len(factors) == 2 * len(outputs.made.deltas)
    assert {t.dtype for t in factors} == {torch.float8_e4m3fn}
    with pytest.raises(AttributeError):
        load_file(path)


def test_the_recipe_for_float_factors_keeps_the_delta(outputs: Outputs) -> None:
    """sqrt(a / A) times the integers, with alpha A, is the same delta weight."""
    path = outputs.of("ultra")
    with safe_open(path, framework="numpy") as file:
        own = float(file.metadata()["lensd.alpha"])
    deltas, tensors = _decoder()(path), load_file(path)
    for name in outputs.made.deltas:
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
