"""lensd.config.model: the files that a folder selects, its parameters, and lines of keys."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lensd.config.model import Config
from lensd.lora.parameters import Parameters

Read = Callable[[str], Config]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.safetensors", True),
        ("deep/er/a.safetensors", True),
        ("a.ckpt", False),
        ("a.safetensors.part", False),
        ("a-draft.safetensors", False),
        ("deep/a-draft.safetensors", False),
        ("private/a.safetensors", False),
        ("deep/private/x/a.safetensors", False),
        ("privates/a.safetensors", True),
        ("sd/old/a.safetensors", False),
        ("sd/older/a.safetensors", True),
        ("sd/2023/x/a.safetensors", False),
        ("caf\udce9.safetensors", True),
        ("two\nlines.safetensors", True),
    ],
)
def test_include_and_exclude(read: Read, path: str, expected: bool) -> None:  # noqa: FBT001
    """Patterns match the name or the path; an excluded folder excludes everything in it."""
    exclude = '["*-draft.safetensors", private/, sd/old, "sd/2023/*"]'
    (watch,) = read(f"watch:\n  - path: /a\n    exclude: {exclude}\n").watch
    assert expected == watch.selects(path)


def test_include_matches_paths_too(read: Read) -> None:
    """A pattern with a folder selects the files in that folder."""
    (watch,) = read("watch:\n  - path: /a\n    include: ['flux/*.safetensors']\n").watch
    assert watch.selects("flux/a.safetensors")
    assert not watch.selects("sdxl/a.safetensors")


def test_parameters_of_a_folder(read: Read) -> None:
    """The numerics get the settings that they use, without those of the daemon."""
    text = "watch: [{path: /a, target_size: 3MB, mode: rank, max_error: 0.1}]"
    (watch,) = read(text).watch
    assert watch.settings.parameters() == Parameters(
        mode="rank",
        energy=0.99,
        allocation="file",
        target_size=3_000_000,
        max_rank=None,
        constant_rank=False,
        strict_energy=False,
        float32="auto",
        targets=("comfyui", "a1111", "forge"),
    )


def test_a_key_has_its_line(read: Read) -> None:
    """A key that is not in the file has the line of the innermost section around it."""
    config = read("watch:\n  - path: /a\n    mode: rank\narchive:\n  path: /b\n")
    assert config.line("watch[0].mode") == 3
    assert config.line("watch[0].energy") == 2
    assert config.line("archive.path") == 5
    assert config.line("archive.keep_days") == 4
    assert config.line("state.path") == 1
