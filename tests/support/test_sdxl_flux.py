"""The module lists behind generated files of SDXL and FLUX."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.architectures import Module, kohya_name, peft_name
from tests.support.sdxl_flux import flux_kohya, flux_peft, sdxl_kohya, sdxl_peft


@pytest.mark.parametrize(
    ("modules", "count", "per_rank"),
    [
        (sdxl_kohya, 986, 3_563_008),
        (sdxl_peft, 736, 1_852_928),
        (flux_kohya, 304, 4_786_176),
        (flux_peft, 494, 5_369_856),
    ],
)
def test_sizes_are_those_of_published_files(
    modules: Callable[[], list[Module]], count: int, per_rank: int
) -> None:
    """Modules, and parameters for each rank: at rank 16 in 16 bits 114, 59, 153 and 172 MB."""
    found = modules()
    assert len(found) == count
    assert sum(m.out_features + m.fan_in for m in found) == per_rank


@pytest.mark.parametrize(
    ("table", "modules", "name"),
    [
        ("sdxl.kohya", sdxl_kohya, kohya_name),
        ("sdxl.peft", sdxl_peft, peft_name),
        ("flux.kohya", flux_kohya, kohya_name),
        ("flux.peft", flux_peft, peft_name),
    ],
)
def test_modules_agree_with_the_key_maps_of_real_loaders(
    shared: Path,
    table: str,
    modules: Callable[[], list[Module]],
    name: Callable[[Module], str],
) -> None:
    """Names, sides, kernels and parts are those that were read out of ComfyUI and diffusers.

    The table of FLUX has the text encoder as well, which few trainers adapt.
    """
    found = modules()
    parts = {m.part for m in found}
    known = json.loads((shared / "models" / f"{table}.json").read_text())
    expected = {
        (m["module"], m["out"], m["in"], tuple(m["kernel"] or ()), m["part"])
        for m in known
        if m["part"] in parts
    }
    actual = {(name(m), m.out_features, m.in_features, m.kernel, m.part) for m in found}
    assert expected == actual
