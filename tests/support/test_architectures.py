"""The module lists behind generated files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.architectures import Module, kohya_name, peft_name, sd15


def test_sd15_has_the_modules_that_trainers_adapt() -> None:
    """264 modules: six in each of 12 text encoder layers, twelve in each of 16 transformers."""
    assert Counter(module.part for module in sd15()) == {"te": 72, "unet": 192}


def test_sd15_has_589824_parameters_per_rank() -> None:
    """So that rank 128 in 16 bits is exactly 144 MiB."""
    per_rank = sum(module.out_features + module.fan_in for module in sd15())
    assert per_rank * 128 * 2 == 144 * 2**20


def test_fan_in_of_a_convolution_counts_its_kernel() -> None:
    assert Module("unet", "conv", 8, 4, (3, 3)).fan_in == 36


@pytest.mark.parametrize(
    ("table", "name"), [("sd15.kohya", kohya_name), ("sd15.peft_full", peft_name)]
)
def test_sd15_agrees_with_the_key_maps_of_real_loaders(
    shared: Path, table: str, name: Callable[[Module], str]
) -> None:
    """Names, sides, kernels and parts are those that were read out of ComfyUI and diffusers."""
    known = json.loads((shared / "models" / f"{table}.json").read_text())
    expected = {
        (m["module"], m["out"], m["in"], tuple(m["kernel"] or ()), m["part"]) for m in known
    }
    actual = {(name(m), m.out_features, m.in_features, m.kernel, m.part) for m in sd15()}
    assert expected == actual
