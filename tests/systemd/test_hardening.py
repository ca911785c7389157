"""The exposure of the unit as systemd computes it, and the reason for each of its settings."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from lensd.systemd.dropin import CUDA
from tests.support.booted import REPOSITORY
from tests.support.limits import PATIENCE
from tests.support.marks import needs_program

FOLDER = REPOSITORY / "systemd"
UNIT = FOLDER / "lensd.service"


def _exposure(folder: Path, *drop_ins: Path, unit: Path = UNIT) -> float:
    """Return the exposure by `systemd-analyze security`: 0 (the best) to 10."""
    shutil.copy(unit, folder)
    (folder / "lensd.service.d").mkdir()
    for drop_in in drop_ins:
        shutil.copy(drop_in, folder / "lensd.service.d")
    command = ["systemd-analyze", "security", "--offline=true", str(folder / unit.name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    found = re.search(r"exposure level for [a-z.-]+: ([0-9.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    return float(found[1])


@needs_program("systemd-analyze")
def test_exposure_of_the_unit(tmp_path: Path) -> None:
    """It is at most 1.0."""
    assert _exposure(tmp_path) <= 1.0


@needs_program("systemd-analyze")
def test_exposure_with_a_gpu(tmp_path: Path) -> None:
    """It is at most 1.5, although the unit has the GPUs and memory for generated code."""
    assert _exposure(tmp_path, FOLDER / "lensd.service.d/cuda.conf") <= 1.5


@needs_program("systemd-analyze")
def test_exposure_of_the_page(tmp_path: Path) -> None:
    """It is at most 1.0, although the page has the network."""
    assert _exposure(tmp_path, unit=FOLDER / "lensd-web.service") <= 1.0


def test_every_setting_has_its_reason() -> None:
    """There is a comment above each line, or above its block of lines."""
    files = [*FOLDER.glob("*.service"), *FOLDER.glob("**/*.conf")]
    assert len(files) == 6
    for file in files:
        body = file.read_text(encoding="utf-8")
        for block in re.split(r"\n\n|\n(?=\[)", body):
            lines = [line for line in block.splitlines() if not line.startswith("[")]
            if block.startswith(("[Unit]", "[Install]")):
                continue
            assert not lines or lines[0].startswith("#"), f"{file.name}: {lines[0]}"


def test_the_example_for_a_gpu_is_what_lensd_service_prints() -> None:
    """Both have the same settings."""
    text = (FOLDER / "lensd.service.d/cuda.conf").read_text(encoding="utf-8")
    found = [line for line in text.splitlines() if line and line[0] not in "#["]
    assert list(CUDA) == found
