"""`lensd completion`, in real shells."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lensd.cli.completion import SHELLS
from tests.cli.conftest import run
from tests.support.limits import PATIENCE
from tests.support.marks import needs_program
from tests.support.terminal import AtTerminal

# The text before TAB, and the words of the line after it.
TYPED = [
    ("lensd ana", "lensd analyze"),
    ("lensd analyze --js", "lensd analyze --json"),
    ("lensd analyze my", "lensd analyze my style.safetensors"),
    ("lensd analyze no", "lensd analyze nothing.safetensors"),
    ("lensd analyze more/", "lensd analyze more/inner.safetensors"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with LoRA files and other files; beside it, `lensd` and the scripts."""
    program = tmp_path / "bin" / "lensd"
    program.parent.mkdir()
    start = "from lensd.cli import main; main(prog_name='lensd')"
    program.write_text(f'#!/bin/sh\nexec \'{sys.executable}\' -c "{start}" "$@"\n')
    program.chmod(0o755)
    for shell in SHELLS:
        (tmp_path / f"script.{shell}").write_text(run(tmp_path, "completion", shell).stdout)
    files = tmp_path / "files"
    (files / "more").mkdir(parents=True)
    for name in ("my style.safetensors", "nothing.safetensors", "notes.txt", "my.json"):
        (files / name).touch()
    (files / "more" / "inner.safetensors").touch()
    return files


def _environment(folder: Path) -> dict[str, str]:
    return {"PATH": f"{folder.parent}/bin:{os.environ['PATH']}", "INPUTRC": os.devnull}


@pytest.mark.parametrize(
    ("command", "setting"),
    [
        pytest.param("bash --norc --noprofile -i", "PS1='> '", marks=needs_program("bash")),
        pytest.param(
            "zsh -f -i",
            "autoload -U compinit; compinit -u -D; bindkey -e",
            marks=[needs_program("zsh"), pytest.mark.slow],
        ),
    ],
    ids=["bash", "zsh"],
)
def test_tab(folder: Path, command: str, setting: str) -> None:
    """TAB completes commands, options, and LoRA files only, with correct quotes."""
    script = folder.parent / f"script.{command.partition(' ')[0]}"
    env = _environment(folder)
    with AtTerminal(command.split(), folder, columns=1000, env=env) as terminal:
        terminal.type(f"{setting}; source '{script}'; echo rea''dy\n")
        terminal.wait_for("^ready$")
        for typed, words in TYPED:
            terminal.type(f"{typed}\t")
            end = words.split()[-1]  # the words before it may be quoted
            terminal.wait_for(rf"{re.escape(end)}\s*\Z")
            terminal.type("\x01echo said: \n")  # prepend echo: the command does not run
            terminal.wait_for(f"^said: {re.escape(words)}$")


@needs_program("fish")
def test_fish(folder: Path) -> None:
    """fish offers the same words."""
    for typed, words in TYPED:
        script = f"source '{folder.parent}/script.fish'; complete -C '{typed}'"
        done = subprocess.run(
            ["fish", "--no-config", "-c", script],
            cwd=folder,
            env={**os.environ, **_environment(folder)},
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE,
        )
        offered = [line.partition("\t")[0] for line in done.stdout.splitlines()]
        kept = typed.rpartition(" ")[0]
        assert [f"{kept} {word}" for word in offered] == [words]


def test_an_unknown_shell(tmp_path: Path) -> None:
    """The error lists the shells; exit code 2."""
    done = run(tmp_path, "completion", "tcsh")
    assert done.returncode == 2
    assert all(shell in done.stderr for shell in SHELLS)
