"""Every command of docs/report.md is run, on what a first run leaves."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs import markdown
from tests.docs.rendering import REPOSITORY
from tests.support import many_files
from tests.support.home_server import HomeServer
from tests.support.limits import PATIENCE

PAGE = (REPOSITORY / "docs/report.md").read_text(encoding="utf-8")
BLOCKS = [
    pytest.param(
        block.text,
        id=block.text.splitlines()[0],
        marks=pytest.mark.slow if "--plot" in block.text else (),  # it imports matplotlib
    )
    for block in markdown.blocks(PAGE)
    if block.language == "sh"
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a configuration, a ledger, a new LoRA, and a log that was rotated."""
    server = HomeServer(tmp_path_factory.mktemp("server"))
    server.drop("first.safetensors", seed=1)
    done = server.lensd("once")
    assert done.returncode == 0, done.stderr
    (server.top / "lensd.log").write_text(done.stdout)
    server.drop("style.safetensors", seed=2)
    older = many_files.write_log(server.top / "older", 20).read_bytes()
    (server.top / "lensd.log.1").write_bytes(gzip.compress(older))
    return server.top


def run(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """As a person would, with this environment's `lensd` on the path."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_runs(folder: Path, block: str) -> None:
    """Without an error; what it writes is there and not empty."""
    lines = block.splitlines()
    if shutil.which("jq") is None:
        lines = [line for line in lines if not line.startswith("jq ")]
    done = run("\n".join(lines), folder)
    assert done.returncode == 0, done.stderr
    for name in ("report.html", "from-logs.html", "report.csv", "report.json", "style.svg"):
        assert name not in block or (folder / name).stat().st_size > 0


def test_logs_of_the_page_are_all_read(folder: Path) -> None:
    """`--log lensd.log lensd.log.1` means both, gzipped or not."""
    done = run("lensd report --json --log lensd.log lensd.log.1", folder)
    paths = {row["path"] for row in json.loads(done.stdout)["hashes"]}
    assert str(folder / "loras/first.safetensors") in paths
    assert any(path.startswith("/srv/loras/") for path in paths)


def test_pictures_are_there() -> None:
    """Real PNGs, which `python -m bench.report_pictures` makes."""
    for name in ("report.png", "report-dark.png", "report-file.png"):
        assert (REPOSITORY / "docs/pictures" / name).read_bytes().startswith(b"\x89PNG")
