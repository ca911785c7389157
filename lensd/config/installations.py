"""Find installations of the programs that load LoRAs, by their well-known files.

PROGRAMS has the facts, in one table: how a folder of each program is recognized, where its LoRAs
are, and its name under `targets`. docs/operations.md shows the table.
"""

from __future__ import annotations

import glob
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from lensd.lora.portability import Program
from lensd.store.deadline import answers

SEARCHED = ("~", "/opt", "/srv")
DEPTH = 4  # of folders below each searched one
SEARCH_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Layout:
    """What a program's folder contains. The first layout that fits a folder is its program."""

    program: str
    marks: tuple[str, ...]  # files and folders, all of which are in it
    loras: tuple[str, ...]  # patterns of its folders for LoRAs
    target: Program | None  # its name under `targets`; None: it starts other programs


# InvokeAI 6 has a folder for each model, named by its key: `models` itself is the folder of all.
_KEY = "????????-????-????-????-????????????"
_WEBUI_LORAS = ("models/Lora", "models/LyCORIS")
PROGRAMS = (
    Layout("ComfyUI", ("main.py", "comfy", "folder_paths.py"), ("models/loras",), "comfyui"),
    Layout("Forge", ("webui.py", "modules", "modules_forge"), _WEBUI_LORAS, "forge"),
    Layout("SD.Next", ("webui.py", "modules", "installer.py"), _WEBUI_LORAS, "sdnext"),
    Layout("AUTOMATIC1111", ("webui.py", "modules", "launch.py"), _WEBUI_LORAS, "a1111"),
    Layout(
        "InvokeAI",
        ("invokeai.yaml",),
        ("models/*/lora", "autoimport/lora", f"models/{_KEY}/.."),
        "invokeai",
    ),
    Layout(
        "Stability Matrix",
        ("Packages", "Models", "settings.json"),
        ("Models/Lora", "Models/LyCORIS"),
        None,
    ),
)
EXTRA_PATHS = "extra_model_paths.yaml"  # of ComfyUI


@dataclass(frozen=True, slots=True)
class Installation:
    """A program that was found."""

    program: str
    folder: str
    loras: tuple[str, ...]  # folders that exist, without symbolic links
    target: Program | None


def find_installations(folders: Iterable[str] = SEARCHED) -> list[Installation]:
    """Return the installations in these folders and below, within SEARCH_SECONDS.

    Symbolic links, folders whose name begins with a dot, other filesystems that do not answer and
    folders that may not be read are left out.
    """
    deadline = time.monotonic() + SEARCH_SECONDS
    found: dict[str, Installation] = {}
    for folder in folders:
        for installation in _search(os.path.abspath(os.path.expanduser(folder)), deadline):
            found.setdefault(installation.folder, installation)
    return list(found.values())


def _search(top: str, deadline: float) -> Iterator[Installation]:
    """The nearest folders first."""
    if not answers(top):
        return
    folders = deque([(os.path.realpath(top), 0)])
    folders.append((os.path.join(folders[0][0], ".local/share"), 1))  # Stability Matrix's default
    while folders and time.monotonic() < deadline:
        folder, depth = folders.popleft()
        layout = _recognize(folder)
        if layout is not None:
            yield Installation(
                layout.program, folder, tuple(_find_loras(folder, layout)), layout.target
            )
        if layout is not None and layout.target is None:
            folders.append((os.path.join(folder, "Packages"), depth))
        elif layout is None and depth < DEPTH:
            folders += [(child, depth + 1) for child in _subfolders(folder)]


def _subfolders(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(
                entry.path
                for entry in entries
                if not entry.name.startswith(".")
                and entry.is_dir(follow_symlinks=False)
                and (not os.path.ismount(entry.path) or answers(entry.path))
            )
    except OSError:  # it may not be read, or was deleted meanwhile
        return []


def _recognize(folder: str) -> Layout | None:
    return next((layout for layout in PROGRAMS if _fits(folder, layout.marks)), None)


def _fits(folder: str, marks: Sequence[str]) -> bool:
    return all(os.path.exists(os.path.join(folder, mark)) for mark in marks)


def _find_loras(folder: str, layout: Layout) -> Iterator[str]:
    """Yield each folder once, without symbolic links: programs share folders by links."""
    patterns = [os.path.join(glob.escape(folder), pattern) for pattern in layout.loras]
    paths = [path for pattern in patterns for path in sorted(glob.glob(pattern))]
    if layout.target == "comfyui":
        paths += _read_extra_paths(folder)
    yield from dict.fromkeys(os.path.realpath(path) for path in paths if os.path.isdir(path))


def _read_extra_paths(folder: str) -> Iterator[str]:
    """Yield the folders for LoRAs that ComfyUI's EXTRA_PATHS names."""
    data = None
    with suppress(OSError, ValueError, yaml.YAMLError):
        data = yaml.safe_load(Path(folder, EXTRA_PATHS).read_bytes())
    for section in data.values() if isinstance(data, dict) else ():
        if isinstance(section, dict) and isinstance(section.get("loras"), str):
            base = os.path.expanduser(str(section.get("base_path") or ""))
            for line in filter(None, map(str.strip, section["loras"].splitlines())):
                yield os.path.join(folder, base, line)
