"""Compute the error that a reduced DoRA has in each program, by the program's own formula.

Run it from the top of the tree with `python -m bench.dora`. lensd measures the low-rank part; a
program normalizes the merged weight afterwards, by rows or by columns, so that its error differs.
The table of docs/formats.md has the relative error of what the program adds to the weights, over
all modules together. The formulas are those of ComfyUI 0.3.77 (weight_decompose), AUTOMATIC1111
1.10 (apply_weight_decompose) and InvokeAI 6 (DoRALayer.get_weight), each at strength 1.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.formats import measure
from bench.sizes import machine
from tests.support.architectures import sd15
from tests.support.realistic import write_lora

EPSILON = torch.finfo(torch.float32).eps
AXES = {"output": 1, "input": 0}  # the magnitude has a number per row, or per column


def comfyui(weight: Tensor, product: Tensor, scale: float, magnitude: Tensor) -> Tensor:
    """Return what ComfyUI and Forge add: by rows they divide by the norms of the base weight."""
    merged = weight + scale * product
    by_rows = magnitude.shape[0] == merged.shape[0]
    norm = weight.norm(dim=1, keepdim=True) if by_rows else merged.norm(dim=0, keepdim=True)
    return merged * (magnitude / (norm + EPSILON)) - weight


def a1111(weight: Tensor, product: Tensor, scale: float, magnitude: Tensor) -> Tensor:
    """Return what AUTOMATIC1111 and SD.Next add: always by columns, and the scale comes last."""
    merged = weight + product
    return (merged * (magnitude / merged.norm(dim=0, keepdim=True)) - weight) * scale


def invokeai(weight: Tensor, product: Tensor, scale: float, magnitude: Tensor) -> Tensor:
    """Return what InvokeAI adds: always by columns."""
    merged = weight + scale * product
    return merged * (magnitude / merged.norm(dim=0, keepdim=True)) - weight


def low_rank_part(weight: Tensor, product: Tensor, scale: float, magnitude: Tensor) -> Tensor:
    """Return what programs add that ignore the magnitude."""
    del weight, magnitude
    return scale * product


PROGRAMS: Mapping[str, Callable[[Tensor, Tensor, float, Tensor], Tensor]] = {
    "kohya, diffusers: no magnitude": low_rank_part,
    "ComfyUI, Forge": comfyui,
    "AUTOMATIC1111, SD.Next": a1111,
    "InvokeAI": invokeai,
}


def main() -> int:
    from lensd import __version__

    torch.set_num_threads(1)
    print(f"lensd {__version__}, {machine()}\n")
    print("| magnitude per | base weight | lensd reports |", " | ".join(PROGRAMS), "|")
    print("|---|---|---:|" + "---:|" * len(PROGRAMS))
    with tempfile.TemporaryDirectory(prefix="lensd-bench-") as folder:
        for axis in AXES:
            before, after, reported = compress_dora(Path(folder), axis)
            for base in ("like a trained one", "zero"):
                cells = [error(apply, before, after, axis, base) for apply in PROGRAMS.values()]
                row = " | ".join(f"{cell:.3f}" for cell in (reported, *cells))
                print(f"| {axis} | {base} | {row} |", flush=True)
    return 0


def compress_dora(
    folder: Path, axis: str
) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor], float]:
    """Return the tensors of a DoRA and of lensd's output, and the error that lensd reports."""
    path = folder / f"{axis}.safetensors"
    modules = [m for m in sd15() if "down_blocks.1." in m.path and "attn" in m.path]
    write_lora(path, rank=32, alpha=16.0, modules=modules, effective_rank=10)
    tensors = load_file(path)
    for name, up, down, _ in pairs(tensors):
        shape = (len(up), 1) if axis == "output" else (1, down.shape[1])
        tensors[f"{name}.dora_scale"] = torch.ones(shape)
    save_file(tensors, path)
    numbers = measure(path, folder, "rank", ("--energy", "0.99"))
    return tensors, load_file(folder / "out.safetensors"), numbers["delta_error"]


def pairs(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor, Tensor, float]]:
    """Yield name, up [out, r], down [r, in] and alpha / r of each module."""
    for key in sorted(tensors):
        if key.endswith(".lora_down.weight"):
            name = key.removesuffix(".lora_down.weight")
            up, down = tensors[f"{name}.lora_up.weight"], tensors[key]
            scale = float(tensors[f"{name}.alpha"]) / len(down)
            yield name, up.flatten(1).double(), down.flatten(1).double(), scale


def error(
    apply: Callable[[Tensor, Tensor, float, Tensor], Tensor],
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    axis: str,
    base: str,
) -> float:
    """Return the relative error of what a program adds to the weights of all modules."""
    random = torch.Generator().manual_seed(0)
    squared = difference = 0.0
    for (_, up, down, scale), (_, new_up, new_down, new_scale) in zip(
        pairs(before), pairs(after), strict=True
    ):
        weight = torch.randn(len(up), down.shape[1], generator=random).double()
        weight *= 0.0 if base == "zero" else down.shape[1] ** -0.5
        magnitude = (weight + scale * up @ down).norm(dim=AXES[axis], keepdim=True)
        old = apply(weight, up @ down, scale, magnitude)
        new = apply(weight, new_up @ new_down, new_scale, magnitude)
        squared += float(old.square().sum())
        difference += float((old - new).square().sum())
    return (difference / squared) ** 0.5


if __name__ == "__main__":
    sys.exit(main())
