"""The cost of a file by its shapes: real ones are affordable, hostile ones are refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lensd.errors import Skipped
from lensd.lora import cost
from lensd.lora.layout import Module, read_layout
from lensd.lora.tensor_spec import TensorSpec


def modules(*shapes: tuple[int, int, int]) -> tuple[Module, ...]:
    """Modules of (out, in, rank)."""
    specs = {}
    for at, (out, width, rank) in enumerate(shapes):
        specs[f"lora_unet_{at}.lora_up.weight"] = TensorSpec("F16", (out, rank))
        specs[f"lora_unet_{at}.lora_down.weight"] = TensorSpec("F16", (rank, width))
    return read_layout(specs).modules


def real_files(shared: Path, rank: int) -> Iterator[tuple[str, tuple[Module, ...]]]:
    """The shapes of each real file at a rank."""
    for path in sorted((shared / "models").glob("*.*.json")):
        entries = json.loads(path.read_text())
        if path.name.startswith("modules.") or not isinstance(entries, list):
            continue
        sizes = []
        for entry in entries:
            kernel = entry["kernel"] or 1
            area = kernel**2 if isinstance(kernel, int) else kernel[0] * kernel[1]
            sizes.append((entry["out"], entry["in"] * area, rank))
        yield path.name, modules(*sizes)


@pytest.mark.parametrize("rank", [128, 512])
def test_every_real_file_is_affordable(
    shared: Path, rank: int, tell: Callable[[str], None]
) -> None:
    """Up to rank 512, which few have; at rank 128 the limits are at least six times as high."""
    files = list(real_files(shared, rank))
    assert len(files) > 50
    for _, found in files:
        cost.require_affordable(found)
    costs = [(cost.of_module(m), name) for name, found in files for m in found]
    work, name = max((c.work, name) for c, name in costs)
    memory = max(c.memory for c, _ in costs)
    whole = max(sum(cost.of_module(m).work for m in found) for _, found in files)
    tell(f"rank {rank}: a module at most {cost.Cost(work, memory)} ({name}), a file {whole:.2g}")
    if rank == 128:
        assert work * 6 < cost.MODULE_LIMIT.work
        assert memory * 6 < cost.MODULE_LIMIT.memory
        assert whole * 50 < cost.FILE_WORK


@pytest.mark.parametrize(
    "shape",
    [(4, 4, 8192), (1, 1, 16384), (320, 36, 128), (1280, 1280, 1280), (7168, 1280, 1024)],
)
def test_a_large_rank_alone_is_affordable(shape: tuple[int, int, int]) -> None:
    """It costs what the sides of the delta weight cost."""
    cost.require_affordable(modules(shape))


@pytest.mark.parametrize(
    "shape", [(1513, 1513, 1513), (14000, 14000, 513), (6144, 20000, 600), (40000, 800, 800)]
)
def test_a_rank_that_nobody_uses_gets_less_memory(shape: tuple[int, int, int]) -> None:
    """Beyond rank 512 a module may take 384 MiB; a real one of rank 512 may take more."""
    cost.require_affordable(modules((6144, 55296, 512)))
    with pytest.raises(Skipped, match=r"the limit of a module is 30 s on one core and 384 MiB"):
        cost.require_affordable(modules(shape))


@pytest.mark.parametrize(
    "shape",
    [(4096, 4096, 4096), (16384, 16384, 16384), (10**6, 10**6, 8), (2, 10**8, 2), (10**12, 1, 1)],
)
def test_a_module_that_costs_too_much_is_named(shape: tuple[int, int, int]) -> None:
    """With its rank, its cost and the limit."""
    with pytest.raises(Skipped, match=r"lora_unet_1 \(rank .* s on one core .* limit") as caught:
        cost.require_affordable(modules((320, 320, 4), shape))
    assert caught.value.reason == "too_costly"


def test_many_modules_that_are_affordable_alone() -> None:
    """The whole file has a limit too."""
    with pytest.raises(Skipped, match=r"its 3000 modules would take 1. hours") as caught:
        cost.require_affordable(modules(*[(1512, 1512, 1512)] * 3000))
    assert caught.value.reason == "too_costly"
