"""What a newcomer copies from the README works."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lensd.config.reading import load
from tests.docs import markdown
from tests.docs.rendering import REPOSITORY
from tests.support.home_server import Seen
from tests.support.realistic import small_lora
from tests.support.running import RunningDaemon

README = REPOSITORY / "README.md"


def _blocks(heading: str) -> list[str]:
    found = markdown.blocks(markdown.section(README.read_text(encoding="utf-8"), heading))
    return [block.text for block in found if block.language == "sh"]


def _shell(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a block as a person would, with this environment's `lensd` on the path."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def home_server(tmp_path: Path) -> Path:
    """The folder after the README's first configuration, with one LoRA."""
    done = _shell(_blocks("A first configuration")[0], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no faults" in done.stdout
    small_lora(tmp_path / "loras/style.safetensors")
    return tmp_path


def test_first_steps_compress_and_restore(home_server: Path) -> None:
    """The configuration, the dry run, `once`, the log through jq, and the original back."""
    lora = home_server / "loras/style.safetensors"
    before = Seen.of(lora)
    done = _shell(_blocks("A first configuration")[1], home_server)
    assert done.returncode == 0, done.stderr
    assert "1 files" in done.stdout
    assert "1 compressed" in done.stdout
    assert lora.stat().st_size < before.size
    _read_log(home_server, lora)
    top = markdown.blocks(README.read_text(encoding="utf-8").partition("\n## ")[0])
    restore = next(block.text for block in top if block.text.startswith("lensd restore"))
    done = _shell(restore, home_server)
    assert done.returncode == 0, done.stderr
    assert Seen.of(lora) == before


def _read_log(home_server: Path, lora: Path) -> None:
    lines = [json.loads(line) for line in (home_server / "lensd.log").read_text().splitlines()]
    compressed = next(line for line in lines if line["event"] == "file.compressed")
    assert Path(compressed["path"]) == lora
    if shutil.which("jq") is None:
        return
    done = _shell(_blocks("Reading the log")[0], home_server)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\t")[1] == str(compressed["bytes_out"])


def test_single_file_commands_work(home_server: Path) -> None:
    """`analyze` and `compress` as the README shows them."""
    done = _shell(_blocks("Modes")[0], home_server)
    assert done.returncode == 0, done.stderr
    assert "ultra" in done.stdout
    original = home_server / "loras/style.safetensors"
    assert (home_server / "try.safetensors").stat().st_size < original.stat().st_size


def test_the_configuration_runs_as_a_daemon(home_server: Path) -> None:
    """A file that comes later is compressed; the one that was there is left alone."""
    config = home_server / "config.yaml"
    text = config.read_text().replace("path: lensd.log", "path: null")
    config.write_text(text + "settle:\n  quiet_seconds: 0.3\n")
    assert load(str(config)).log.path is None
    old = Seen.of(home_server / "loras/style.safetensors")
    made = small_lora(home_server / "later.safetensors", seed=1)
    with RunningDaemon(config, home_server / "stderr") as daemon:
        daemon.wait_for_event("daemon.ready", 30)
        target = home_server / "loras/later.safetensors"
        made.path.rename(target)
        assert daemon.wait_for_file(target)["event"] == "file.compressed"
    assert Seen.of(home_server / "loras/style.safetensors") == old


def test_test_command_is_that_of_the_makefile() -> None:
    """`make test`, `make demo` and other targets that the documentation names are there."""
    makefile = (REPOSITORY / "Makefile").read_text()
    for page in (README, REPOSITORY / "CONTRIBUTING.md"):
        for target in re.findall(r"`make ([a-z-]+)`", page.read_text(encoding="utf-8")):
            assert f"\n{target}:" in makefile, target
    assert "`make test`" in README.read_text(encoding="utf-8")


def test_benchmarks_that_figures_come_from_are_there() -> None:
    """Each `python -m bench.NAME` in the documentation is a module of the tree."""
    for page in (README, *(REPOSITORY / "docs").rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r"python -m ([a-z_.]+)", text):
            if name != "venv":
                assert (REPOSITORY / f"{name.replace('.', '/')}.py").is_file(), name
