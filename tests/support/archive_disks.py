"""Disks of other systems for an archive, and folders that show under a second path."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.disks import Mounts


class ArchiveMounts(Mounts):
    """Mounts that end with the `with` block."""

    def bind(self, source: Path, folder: Path) -> Path:
        """Show a folder under a second path."""
        return self._mount(folder, "--bind", str(source))

    def windows(self, folder: Path) -> Path:
        """An NTFS that folds case and refuses the names that Windows refuses."""
        for name in ("mkntfs", "lowntfs-3g"):
            if shutil.which(name) is None:
                pytest.skip(f"needs the program {name}")
        image = folder.with_name(f"{folder.name}.ntfs")
        with image.open("wb") as file:
            os.truncate(file.fileno(), 64 * 2**20)
        subprocess.run(["mkntfs", "-q", "-F", "-Q", str(image)], check=True, capture_output=True)
        options = "loop,ignore_case,windows_names"
        return self._mount(folder, "-t", "lowntfs-3g", "-o", options, str(image))
