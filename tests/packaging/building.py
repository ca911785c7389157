"""sdist and wheel of this tree, and a place where commands run without an index."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

from tests.packaging import lending
from tests.support.limits import PATIENCE

REPOSITORY = Path(__file__).resolve().parents[2]


class Built(NamedTuple):
    """The wheel was built from the sdist, not from the tree."""

    sdist: Path
    wheel: Path


def build(folder: Path) -> Built:
    """What `python -m build` makes, with the build backend that is installed here."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder)]
    done = subprocess.run([*command, str(REPOSITORY)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return Built(next(folder.glob("*.tar.gz")), next(folder.glob("*.whl")))


def lend_requirements(folder: Path) -> None:
    """Wheels of what lensd needs, and of what builds it."""
    tree = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = tree["project"]["dependencies"] + tree["build-system"]["requires"]
    lending.lend(folder, *(Requirement(text).name for text in wanted))


class Sandbox:
    """Commands in a folder of their own."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.environment = environment

    def runs(self, *command: str) -> str:
        """Its standard output. Fails the test when its exit status is not 0."""
        done = subprocess.run(
            [*command],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout
