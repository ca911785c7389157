"""The built distributions, and a sandbox to install them in."""

from __future__ import annotations

import os
import sys
import tarfile
from pathlib import Path

import pytest

from tests.packaging.building import Built, Sandbox, build, lend_requirements

INSTALLERS = ("PIP_", "PIPX_", "UV_", "PYTHONPATH", "VIRTUAL_ENV")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """sdist and wheel."""
    return build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="session")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that an installer may find."""
    folder = tmp_path_factory.mktemp("wheelhouse")
    lend_requirements(folder)
    return folder


@pytest.fixture
def sandbox(wheelhouse: Path, home: Path, tmp_path: Path) -> Sandbox:
    """pip, pipx and uv find the wheelhouse and nothing else."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(INSTALLERS)}
    programs = f"{home}/.local/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"
    lent = {
        "PATH": programs,
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheelhouse),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "UV_PYTHON": os.path.realpath(sys.executable),  # what is lent fits no other one
        "UV_NO_CONFIG": "1",
        "UV_OFFLINE": "1",
        "UV_NO_INDEX": "1",
        "UV_FIND_LINKS": str(wheelhouse),
    }
    return Sandbox(tmp_path, kept | lent)


@pytest.fixture
def clone(built: Built, sandbox: Sandbox) -> Sandbox:
    """A sandbox in an unpacked sdist, the tree that a user downloads."""
    with tarfile.open(built.sdist) as archive:
        archive.extractall(sandbox.folder, filter="data")
    folder = sandbox.folder / built.sdist.name.removesuffix(".tar.gz")
    return Sandbox(folder, sandbox.environment)
