"""`lensd expand` as a process."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.lora import making

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.slow
def test_expand(lensd: Run, tmp_path: Path) -> None:
    """It writes NAME.float16.safetensors; the input does not change; a second run needs --force."""
    save_file(making.small_file(), tmp_path / "a.safetensors")
    assert lensd("compress", "a.safetensors", "-o", "b.safetensors").returncode == 0
    before = (tmp_path / "b.safetensors").read_bytes()
    done = lensd("expand", "b.safetensors")
    assert (done.returncode, done.stderr) == (0, "")
    assert "4 of 4 modules expanded" in done.stdout
    assert load_file(tmp_path / "b.float16.safetensors").keys() == making.small_file().keys()
    assert (tmp_path / "b.safetensors").read_bytes() == before
    again = lensd("expand", "b.safetensors")
    assert again.returncode == 2
    assert "--force" in again.stderr
    assert lensd("expand", "b.safetensors", "--force").returncode == 0
    same = lensd("expand", "b.safetensors", "-o", "b.safetensors", "--force")
    assert same.returncode == 2
    assert "never writes over it" in same.stderr
    assert (tmp_path / "b.safetensors").read_bytes() == before


def test_a_float_file_cannot_be_expanded(lensd: Run, tmp_path: Path) -> None:
    """The error is one line; no file is left behind."""
    save_file(making.small_file(), tmp_path / "a.safetensors")
    done = lensd("expand", "a.safetensors")
    assert done.returncode == 2
    assert done.stderr.startswith("lensd: error: there is nothing to expand: a.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_missing_output_folder(lensd: Run, tmp_path: Path) -> None:
    """Both commands that write a new file end with a storage error and its remedy."""
    save_file(making.small_file(), tmp_path / "a.safetensors")
    for verb in ("expand", "compress"):
        done = lensd(verb, "a.safetensors", "-o", "no/b.safetensors")
        assert done.returncode == 5
        assert "-o" in done.stderr
