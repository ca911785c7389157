"""The commands of the README work."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from lensd.config.load import load
from tests.docs import markdown, shell
from tests.docs.rendering import REPOSITORY
from tests.support.home_server import Seen
from tests.support.realistic import small_lora
from tests.support.running import RunningDaemon

README = REPOSITORY / "README.md"
TOP = README.read_text(encoding="utf-8").partition("\n## ")[0]
TOP_COMMANDS = markdown.blocks(TOP)[0].text


@pytest.fixture
def home_server(tmp_path: Path) -> Path:
    """A folder with the README's first configuration and one LoRA."""
    said = shell.output(shell.scripts("README.md", "A first configuration")[0], tmp_path)
    assert "no faults" in said
    small_lora(tmp_path / "loras/style.safetensors")
    return tmp_path


def test_first_steps_compress_and_restore(home_server: Path) -> None:
    """Configuration, dry run, `once`, jq on the log, and restore work in sequence."""
    lora = home_server / "loras/style.safetensors"
    before = Seen.of(lora)
    steps, log = shell.scripts("README.md", "A first configuration")[1:]
    said = shell.output(steps, home_server)
    assert "1 file" in said
    assert "1 compressed" in said
    assert lora.stat().st_size < before.size
    _read_log(home_server, lora, log)
    shell.output(shell.scripts("README.md", "Undo")[0], home_server)
    assert Seen.of(lora) == before


def _read_log(home_server: Path, lora: Path, command: str) -> None:
    lines = [json.loads(line) for line in (home_server / "lensd.log").read_text().splitlines()]
    compressed = next(line for line in lines if line["event"] == "file.compressed")
    assert Path(compressed["path"]) == lora
    if shutil.which("jq") is None:
        return
    assert shell.output(command, home_server).split("\t")[1] == str(compressed["bytes_out"])


@pytest.mark.slow
def test_single_file_commands_work(home_server: Path) -> None:
    """`analyze`, `compress` and `compare` run as the README shows them."""
    said = shell.output(shell.scripts("README.md", "One file")[0], home_server)
    assert "ultra" in said
    original = home_server / "loras/style.safetensors"
    assert (home_server / "try.safetensors").stat().st_size < original.stat().st_size


def test_the_two_commands(home_server: Path) -> None:
    """The dry run and the daemon of the first screen work; SIGTERM ends the daemon."""
    dry, daemon = TOP_COMMANDS.splitlines()
    assert "1 file" in shell.output(dry, home_server)
    script = f"timeout 60 {daemon.partition('#')[0]} & "
    script += "until grep -qs daemon.ready lensd.log; do sleep 0.1; done; kill %1; wait %1 || true"
    shell.output(script, home_server)
    assert '"daemon.stopping"' in (home_server / "lensd.log").read_text()


def test_seven_questions_have_an_answer_and_a_link() -> None:
    """The table is above the first heading."""
    rows = [line for line in TOP.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 7
    for row in rows:
        question, answer, more = (cell.strip() for cell in row.strip("|").split("|"))
        assert question.endswith("?")
        assert answer
        assert markdown.links(more)


@pytest.mark.slow
def test_the_configuration_runs_as_a_daemon(home_server: Path) -> None:
    """The daemon compresses a new file, and leaves the existing one alone."""
    config = home_server / "config.yaml"
    text = config.read_text().replace("path: lensd.log", "path: null")
    config.write_text(text + "settle:\n  quiet_seconds: 0.3\n")
    assert load(str(config)).log.path is None
    old = Seen.of(home_server / "loras/style.safetensors")
    made = small_lora(home_server / "later.safetensors", seed=1)
    with RunningDaemon(config, home_server / "stderr") as daemon:
        daemon.wait_for_event("daemon.ready")
        target = home_server / "loras/later.safetensors"
        made.path.rename(target)
        assert daemon.wait_for_file(target)["event"] == "file.compressed"
    assert Seen.of(home_server / "loras/style.safetensors") == old


def test_make_targets_exist() -> None:
    """The Makefile has every target that the documentation names."""
    makefile = (REPOSITORY / "Makefile").read_text()
    for page in (README, REPOSITORY / "CONTRIBUTING.md"):
        for target in re.findall(r"`make ([a-z-]+)`", page.read_text(encoding="utf-8")):
            assert f"\n{target}:" in makefile, target
    assert "`make test`" in README.read_text(encoding="utf-8")


def test_modules_exist() -> None:
    """Each `python -m NAME` in the documentation names a module of the project, or venv."""
    for page in (README, *(REPOSITORY / "docs").rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r"python -m ([a-z0-9_.]+)", text):
            module = REPOSITORY / name.replace(".", "/")
            files = module.with_suffix(".py"), module / "__main__.py"
            assert name == "venv" or any(file.is_file() for file in files), name
