"""`lensd check`."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "disk").mkdir()
    (tmp_path / "loras").symlink_to("disk")
    file = tmp_path / "config.yaml"
    file.write_text(
        "watch:\n  - path: loras\n    mode: rank\narchive: {path: archive}\nstate: {path: state}\n"
    )
    return file


def test_the_summary_has_the_textfile_if_there_is_one(lensd: Run, config: Path) -> None:
    """Its line follows that of the log."""
    (config.parent / "m").mkdir()
    config.write_text(f"{config.read_text()}metrics: {{textfile: m/lensd.prom}}\n")
    done = lensd("check")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"  metrics  {config.parent}/m/lensd.prom\n")


def test_a_good_configuration_is_summarized(lensd: Run, config: Path) -> None:
    """stdout has the watched folders and where the originals go; stderr has nothing."""
    done = lensd("check")
    assert (done.returncode, done.stderr) == (0, "")
    folder = config.parent
    assert done.stdout == (
        "config.yaml: no faults\n"
        f"  watch    loras: {folder}/loras -> {folder}/disk, mode rank;"
        " existing files are left alone\n"
        f"  archive  {folder}/archive, originals are kept\n"
        f"  state    {folder}/state\n"
        "  log      stdout, level info\n"
    )


def test_the_summary_says_how_many_processes_compute(lensd: Run, config: Path) -> None:
    """With the memory of each; 0 is the number that lensd chooses."""
    text = config.read_text()
    config.write_text(f"{text}worker: {{processes: 3, memory_limit: 1GiB}}\n")
    assert "  worker   3 processes, at most 1.1 GB of memory each\n" in lensd("check").stdout
    config.write_text(f"{text}worker: {{processes: 0, memory_limit: null}}\n")
    assert re.search(
        r"^  worker   \d+ process(es)?, any amount of", lensd("check").stdout, re.MULTILINE
    )


@pytest.mark.parametrize(
    ("keys", "kept"),
    [
        ("keep_days: 90", " 90 days"),
        ("max_size: 200GB", ", at most 200.0 GB of them"),
        ("keep_days: 90, max_size: 200GB", " 90 days, at most 200.0 GB of them"),
    ],
)
def test_the_summary_says_which_originals_are_kept(
    lensd: Run, config: Path, keys: str, kept: str
) -> None:
    """As archive.keep_days and archive.max_size say."""
    text = config.read_text()
    config.write_text(text.replace("archive: {path:", f"archive: {{{keys}, path:"))
    assert text != config.read_text()
    assert f"/archive, originals are kept{kept}\n" in lensd("check").stdout


def test_every_fault_at_once(lensd: Run, config: Path) -> None:
    """`file:line: key: fault` and a remedy each, for text and folders together; exit code 4."""
    config.write_text("watch:\n  - path: nowhere\n    mode: ultr\nstate: {pth: x}\n")
    done = lensd("check", "-c", str(config))
    assert done.returncode == 4
    assert f"{config}:2: watch[0].path: there is no folder" in done.stdout
    assert f"{config}:3: watch[0].mode: 'ultr'" in done.stdout
    assert "    did you mean `ultra`?" in done.stdout
    assert f"{config}:4: state.pth: unknown key\n    did you mean `path`?" in done.stdout
    assert done.stderr == f"lensd: error: {config} has 3 faults\n"


def test_linked_folders_are_warnings(lensd: Run, config: Path) -> None:
    """Each has a warning with a remedy, even if its name is not UTF-8; the exit code is 0."""
    os.symlink(b"/", os.fsencode(config.parent) + b"/disk/caf\xe9")
    done = lensd("check")
    assert done.returncode == 0
    assert "warning: config.yaml:2: watch[0].path:" in done.stdout
    assert "caf\\xe9 is a symbolic link to a folder, which lensd does not follow" in done.stdout


def test_it_leaves_nothing_behind(lensd: Run, config: Path) -> None:
    """`check` creates neither the archive nor the state folder."""
    before = sorted(config.parent.rglob("*"))
    lensd("check")
    assert before == sorted(config.parent.rglob("*"))


def test_no_configuration_at_all(lensd: Run) -> None:
    """The message names the default paths and the command that makes one."""
    if Path("/etc/lensd/config.yaml").exists():
        pytest.skip("this machine has a lensd configuration")
    done = lensd("check")
    assert (done.returncode, done.stdout) == (4, "")
    for words in ("config.yaml", "~/.config/lensd", "/etc/lensd", "`lensd init`"):
        assert words in done.stderr
