"""What programs that merge LoRAs compute from an output, in their own arithmetic.

The loaders' lines are restated here (docs/formats.md names the versions): cast, product in that
precision, times alpha / rank read as a Python float.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.compute import asking
from tests.lora import making
from tests.lora.making import Made
from tests.support.architectures import sd15
from tests.support.realistic import write_lora

Loader = Callable[[Tensor, Tensor, float, torch.dtype], Tensor]

EXACT = {torch.float32: 1e-6, torch.float16: 5e-4, torch.bfloat16: 5e-3}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A real-shaped file in every mode."""
    folder = tmp_path_factory.mktemp("loading")
    source = folder / "a.safetensors"
    modules = [m for m in sd15() if "up_blocks.3.attentions.0" in m.path or "layers.5." in m.path]
    write_lora(source, rank=48, alpha=24, modules=modules, effective_rank=14)
    found = {}
    for mode in asking.MODES:
        found[mode] = folder / mode
        asking.compress(source, found[mode], mode=mode, min_saving=0.0)
    return found


def as_comfyui(up: Tensor, down: Tensor, alpha: float, dtype: torch.dtype) -> Tensor:
    """ComfyUI 0.29, LoRAAdapter.calculate_weight: strength * alpha times the product."""
    scale = alpha / down.shape[0]
    diff = torch.mm(up.to(dtype).flatten(start_dim=1), down.to(dtype).flatten(start_dim=1))
    return scale * diff.to(dtype)


def as_a1111(up: Tensor, down: Tensor, alpha: float, dtype: torch.dtype) -> Tensor:
    """A1111 1.10, rebuild_conventional, then finalize_updown: the scale comes last."""
    updown = up.to(dtype).reshape(up.size(0), -1) @ down.to(dtype).reshape(down.size(0), -1)
    return updown * (alpha / down.shape[0])


@pytest.mark.parametrize("mode", asking.MODES)
@pytest.mark.parametrize("dtype", list(EXACT), ids=str)
@pytest.mark.parametrize("load", [as_comfyui, as_a1111])
def test_merging_loaders_see_what_the_file_means(
    outputs: dict[str, Path], mode: str, dtype: torch.dtype, load: Loader
) -> None:
    """Finite, and within the precision's own rounding of the float64 meaning, module by module."""
    tensors = load_file(outputs[mode])
    for name, meant in making.meaning(tensors).items():
        up, down = (tensors[f"{name}.lora_{f}.weight"] for f in ("up", "down"))
        found = load(up, down, tensors[f"{name}.alpha"].item(), dtype)
        assert bool(found.isfinite().all())
        assert making.distance(meant, found.double()) <= EXACT[dtype]


def test_the_worst_int8_products_stay_finite_in_float16(tmp_path: Path) -> None:
    """Constant factors of rank 128: 127 * 127 * 128 is 31 times what float16 holds."""
    tensors = making.kohya(
        "lora_unet_x", Made(torch.full((64, 128), 0.5).half(), torch.ones(128, 64).half(), 1.0)
    )
    up = torch.randn(64, 128, generator=torch.Generator().manual_seed(0)).half()
    tensors |= making.kohya("lora_unet_y", Made(up, up.T.contiguous(), 1.0))
    source, out = tmp_path / "a.safetensors", tmp_path / "out"
    save_file(tensors, source)
    asking.compress(source, out, mode="int8")
    found = load_file(out)
    for name, meant in making.meaning(found).items():
        up, down = (found[f"{name}.lora_{f}.weight"] for f in ("up", "down"))
        merged = as_comfyui(up, down, found[f"{name}.alpha"].item(), torch.float16)
        assert bool(merged.isfinite().all())
        assert making.distance(meant, merged.double()) <= 5e-4
        assert making.distance(making.meaning(tensors)[name], meant) < 0.05
