"""Folder trees as the programs that load LoRAs have them."""

from __future__ import annotations

from pathlib import Path


def comfyui(folder: Path) -> Path:
    """A clone of ComfyUI; returns its folder for LoRAs."""
    return _make(folder, ("main.py", "folder_paths.py"), ("comfy", "models/loras"))


def webui(folder: Path, *further: str) -> Path:
    """A clone of AUTOMATIC1111, or of a program made of it; returns its folder for LoRAs."""
    folders = [name for name in further if "." not in name]
    files = [name for name in further if "." in name]
    return _make(folder, ("webui.py", "launch.py", *files), ("modules", *folders, "models/Lora"))


def invokeai(folder: Path) -> Path:
    """The root folder of InvokeAI; returns its folder for LoRAs of SDXL."""
    return _make(folder, ("invokeai.yaml",), ("models/sd-1/lora", "models/sdxl/lora"))


def flat_invokeai(folder: Path) -> Path:
    """The root folder of InvokeAI 6, which names the folder of a model by its key; returns all."""
    key = "models/0b1d1c9e-6b1c-4a0e-9a55-0c3c5a3b8f11"
    return _make(folder, ("invokeai.yaml",), (key,)).parent


def stability_matrix(folder: Path) -> Path:
    """Its data folder, with a ComfyUI that shares the folder for LoRAs; returns that folder."""
    shared = _make(folder, ("settings.json",), ("Packages", "Models/Lora"))
    loras = comfyui(folder / "Packages/ComfyUI")
    loras.rmdir()
    loras.symlink_to(shared)
    return shared


def _make(folder: Path, files: tuple[str, ...], folders: tuple[str, ...]) -> Path:
    for name in folders:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name in files:
        (folder / name).touch()
    return folder / folders[-1]
