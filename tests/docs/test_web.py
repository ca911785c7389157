"""The commands of docs/web.md; tests/systemd/test_web.py runs those of the unit."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs import markdown
from tests.docs.rendering import REPOSITORY
from tests.support.home_server import HomeServer
from tests.support.limits import PATIENCE
from tests.support.web import Web

PAGE = (REPOSITORY / "docs/web.md").read_text(encoding="utf-8")
BLOCKS = [block.text for block in markdown.blocks(PAGE) if block.language == "sh"]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[-1])
def test_a_block_serves_the_page(tmp_path: Path, block: str) -> None:
    """On a free port of this machine, in place of the addresses of the documentation."""
    server = HomeServer(tmp_path)
    *lines, last = block.splitlines()
    words = [re.sub(r"[0-9.]+:8787", "127.0.0.1:0", word) for word in shlex.split(last)]
    if "--listen" not in words:
        words += ["--listen", "127.0.0.1:0"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    script = "\n".join([*lines, f"exec {shlex.join(words)}"])
    with subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=server.top,
        env={**os.environ, "PATH": path},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        try:
            assert "the page is at" in said
            assert Web(process, said.split()[-1].rstrip("/")).get("/login").status == 200
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


def test_pictures_are_there() -> None:
    """Real PNGs, which `python -m bench.web_pictures` makes."""
    for name in ("web.png", "web-dark.png", "web-phone.png", "web-file.png"):
        assert (REPOSITORY / "docs/pictures" / name).read_bytes().startswith(b"\x89PNG")
        assert f"pictures/{name}" in PAGE
