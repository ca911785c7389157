"""lensd.config.installations: programs are found by what their folders contain."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lensd.config.installations import PROGRAMS, Installation, find_installations
from tests.support import programs


def find(*folders: Path) -> dict[str, Installation]:
    return {found.program: found for found in find_installations(map(str, folders))}


MAKE: dict[str, Callable[[Path], Path]] = {
    "ComfyUI": programs.comfyui,
    "AUTOMATIC1111": programs.webui,
    "Forge": lambda folder: programs.webui(folder, "modules_forge"),
    "SD.Next": lambda folder: programs.webui(folder, "installer.py"),
    "InvokeAI": programs.invokeai,
    "Stability Matrix": programs.stability_matrix,
}


def test_each_program_has_a_tree() -> None:
    """The tests below cover the whole table."""
    assert set(MAKE) == {layout.program for layout in PROGRAMS}


@pytest.mark.parametrize("program", MAKE)
def test_a_program_is_found_with_its_folder(tmp_path: Path, program: str) -> None:
    """Below the searched folder, with its name under `targets`."""
    loras = MAKE[program](tmp_path / "ai/programs/x")
    found = find(tmp_path)
    assert str(loras) in found[program].loras
    assert found[program].folder == str(tmp_path / "ai/programs/x")
    expected = {p.program: p.target for p in PROGRAMS}
    assert found[program].target == expected[program]


def test_a_flat_folder_of_invokeai_is_found(tmp_path: Path) -> None:
    """Its models of all kinds lie in one folder, each below its key."""
    models = programs.flat_invokeai(tmp_path / "invokeai")
    (models / "f2a1c9d0-1b1c-4a0e-9a55-0c3c5a3b8f11").mkdir()
    assert find(tmp_path)["InvokeAI"].loras == (str(models),)


def test_a_shared_folder_is_that_of_all_its_programs(tmp_path: Path) -> None:
    """Stability Matrix links the folders of its packages to its own; all have the same path."""
    shared = programs.stability_matrix(tmp_path / ".local/share/StabilityMatrix")
    found = find(tmp_path)
    assert found["ComfyUI"].loras == found["Stability Matrix"].loras == (str(shared),)


def test_folders_of_extra_model_paths_are_found(tmp_path: Path) -> None:
    """ComfyUI reads LoRAs also from the folders that this file names, one a line."""
    loras = programs.comfyui(tmp_path / "ComfyUI")
    further = [tmp_path / "nas/loras", tmp_path / "nas/more"]
    for folder in further:
        folder.mkdir(parents=True)
    (tmp_path / "ComfyUI/extra_model_paths.yaml").write_text(
        f"nas:\n  base_path: {tmp_path}/nas\n  loras: |\n    loras\n    more\n    missing\n"
        "broken: 3\nother: {loras: [1]}\n"
    )
    assert find(tmp_path)["ComfyUI"].loras == (str(loras), *map(str, further))


@pytest.mark.parametrize("text", ["[", "a: 1", "\0", "- x"])
def test_a_broken_file_of_comfyui_does_not_end_the_search(tmp_path: Path, text: str) -> None:
    """What is in it is left out."""
    loras = programs.comfyui(tmp_path / "ComfyUI")
    (tmp_path / "ComfyUI/extra_model_paths.yaml").write_text(text)
    assert find(tmp_path)["ComfyUI"].loras == (str(loras),)


def test_links_hidden_and_deep_folders_are_not_searched(tmp_path: Path) -> None:
    """A loop of links does not lengthen the search; a program six folders down is not found."""
    programs.comfyui(tmp_path / ".cache/ComfyUI")
    programs.comfyui(tmp_path / "a/b/c/d/e/ComfyUI")
    os.symlink(tmp_path, tmp_path / "a/loop")
    assert find(tmp_path) == {}


def test_a_folder_that_does_not_exist_is_no_error(tmp_path: Path) -> None:
    """/srv may be missing."""
    assert find(tmp_path / "missing") == {}
