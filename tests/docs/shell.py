"""Blocks of the documentation, run by a shell as a person would."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.docs import markdown
from tests.docs.rendering import REPOSITORY
from tests.support.limits import PATIENCE

LANGUAGES = ("sh", "console")


def scripts(page: str, heading: str) -> list[str]:
    """The blocks of commands below a heading of a page (`README.md`), without prompt and `sudo`."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    found = markdown.blocks(markdown.section(text, heading))
    return [plain(block.text) for block in found if block.language in LANGUAGES]


def plain(text: str) -> str:
    """A block as a shell takes it."""
    lines = (line.removeprefix("$ ").replace("sudo ", "") for line in text.splitlines())
    return "\n".join(lines) + "\n"


def run(
    script: str, folder: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """With this environment's programs first on the path. Stops at the first command that fails."""
    given = dict(os.environ if env is None else env)
    if env is None:
        given["PATH"] = f"{Path(sys.executable).parent}:{given['PATH']}"
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=given,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


def output(script: str, folder: Path, env: Mapping[str, str] | None = None) -> str:
    """What it prints, messages included. Fails the test when a command of it fails."""
    done = run(script, folder, env)
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr
