"""The installations that README and docs/operations.md show, from the tree as somebody gets it."""

from __future__ import annotations

import pytest

from tests.docs import shell
from tests.packaging.building import Sandbox
from tests.support.marks import needs_program
from tests.support.realistic import small_lora

pytestmark = pytest.mark.slow

CLONE, UV, PIPX, VENV = shell.scripts("README.md", "Install")
WHEEL = shell.scripts("docs/operations.md", "Other ways to install")[0]


@pytest.mark.parametrize(
    ("script", "program"),
    [
        pytest.param(UV, "lensd", id="uv"),
        pytest.param(PIPX, "lensd", id="pipx"),
        pytest.param(VENV, ".venv/bin/lensd", id="venv"),
        pytest.param(WHEEL, "lensd", id="wheel"),
    ],
)
def test_an_installation_works(clone: Sandbox, script: str, program: str) -> None:
    """The command is on the path, is no other one, and compresses a file."""
    shell.output(script, clone.folder, clone.environment)
    assert clone.runs(program, "--version").startswith("lensd ")
    where = clone.runs("bash", "-c", f"readlink -f $(command -v {program})")
    home = clone.environment["HOME"]
    assert where.startswith((home, str(clone.folder))), where
    made = small_lora(clone.folder / "style.safetensors")
    clone.runs(program, "compress", "style.safetensors", "-o", "small.safetensors")
    assert (clone.folder / "small.safetensors").stat().st_size < made.path.stat().st_size


@needs_program("git")
def test_the_clone(clone: Sandbox) -> None:
    """The first lines, with the address of a repository of this tree; pip finds a package there."""
    git = "git -c user.name=x -c user.email=x@example.org"
    clone.runs("bash", "-c", f"{git} init -q . && {git} add -A && {git} commit -qm x")
    elsewhere = clone.folder.parent / "elsewhere"
    elsewhere.mkdir()
    script = CLONE.replace("URL", str(clone.folder)) + "test -f pyproject.toml\n"
    shell.output(script, elsewhere, clone.environment)
