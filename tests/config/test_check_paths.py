"""lensd.config.check_paths: the folders of a configuration on a real disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lensd.config.check_paths import folder_warnings, is_inside, symlinked_folders
from lensd.config.faults import Fault
from lensd.config.model import Config
from tests.support.limits import PATIENCE

Faults = Callable[[str], dict[str, Fault]]
Read = Callable[[str], Config]

KEEP = "archive: {path: archive}\nstate: {path: state}\n"


@pytest.fixture
def loras(tmp_path: Path) -> Path:
    folder = tmp_path / "loras"
    folder.mkdir()
    return folder


def test_usable_folders_have_no_faults(run_faults: Faults, tmp_path: Path, loras: Path) -> None:
    """Archive and state need not exist yet; the check leaves no file behind."""
    assert run_faults(f"watch: [{{path: loras}}]\n{KEEP}") == {}
    assert sorted(tmp_path.iterdir()) == [tmp_path / "config.yaml", loras]


def test_a_missing_folder_and_a_file_in_its_place(run_faults: Faults, tmp_path: Path) -> None:
    """Both are reported at once, each at its line."""
    (tmp_path / "file").touch()
    found = run_faults(f"watch:\n  - path: nowhere\n  - path: file\n{KEEP}")
    assert found["watch[0].path"].line == 2
    assert "mkdir -p" in found["watch[0].path"].remedy
    assert found["watch[1].path"].line == 3
    assert "is not a folder" in found["watch[1].path"].message


def test_folder_faults_come_with_those_of_the_text(run_faults: Faults) -> None:
    """A misspelled key hides neither a missing folder nor an archive in a wrong folder."""
    found = run_faults(
        "watch:\n  - name: x\n  - path: nowhere\n    mode: ultr\n"
        "archive: {path: nowhere/originals, keep_dais: 3}\nstate: {path: state}\n"
    )
    assert list(found) == [
        "watch[0].path",
        "watch[1].path",
        "watch[1].mode",
        "archive.keep_dais",
        "archive.path",
    ]


@pytest.mark.parametrize("key", ["archive", "state"])
def test_archive_and_state_must_not_be_in_a_watched_folder(
    run_faults: Faults, loras: Path, key: str
) -> None:
    """They must not be in it directly or through a link, nor be the watched folder itself."""
    loras.with_name("link").symlink_to("loras")
    for place in ("loras/x", "link/x", "loras"):
        other = {"archive": "state", "state": "archive"}[key]
        text = f"watch: [{{path: loras}}]\n{key}: {{path: {place}}}\n{other}: {{path: other}}\n"
        found = run_faults(text)
        assert list(found) == [f"{key}.path"]
        assert found[f"{key}.path"].line == 2


def test_a_watched_folder_in_the_archive_is_a_fault(run_faults: Faults, tmp_path: Path) -> None:
    """Otherwise lensd would archive files of the archive."""
    (tmp_path / "archive/loras").mkdir(parents=True)
    found = run_faults(f"watch: [{{path: archive/loras}}]\n{KEEP}")
    assert list(found) == ["watch[0].path"]


def test_state_must_not_be_in_the_archive_but_the_archive_may_be_in_state(
    run_faults: Faults, loras: Path
) -> None:
    """The archive contains only originals."""
    del loras
    watch = "watch: [{path: loras}]\n"
    assert list(run_faults(f"{watch}archive: {{path: a}}\nstate: {{path: a/b}}\n")) == [
        "state.path"
    ]
    assert run_faults(f"{watch}archive: {{path: a/b}}\nstate: {{path: a}}\n") == {}


def test_watched_folders_may_not_overlap(run_faults: Faults, tmp_path: Path, loras: Path) -> None:
    """One folder in another, or one folder twice through a link, would give each file two jobs."""
    (loras / "flux").mkdir()
    (tmp_path / "again").symlink_to("loras")
    found = run_faults(f"watch:\n  - path: loras\n  - path: loras/flux\n{KEEP}")
    assert list(found) == ["watch[1].path"]
    found = run_faults(f"watch:\n  - path: loras\n  - path: again\n{KEEP}")
    assert list(found) == ["watch[1].path"]


@pytest.mark.parametrize("key", ["archive", "state"])
def test_archive_and_state_must_be_writable(run_faults: Faults, loras: Path, key: str) -> None:
    """Nobody can create a file in /sys, or a folder below a file."""
    (loras.parent / "file").touch()
    other = {"archive": "state", "state": "archive"}[key]
    for place in ("/sys", "file/x"):
        text = f"watch: [{{path: loras}}]\n{key}: {{path: {place}}}\n{other}: {{path: other}}\n"
        assert list(run_faults(text)) == [f"{key}.path"]


@pytest.mark.parametrize("place", ["loras", "/sys/lensd.log", "file/lensd.log"])
def test_a_log_that_cannot_be_written(run_faults: Faults, loras: Path, place: str) -> None:
    """A folder, a path in /sys and a path below a file are faults."""
    (loras.parent / "file").touch()
    text = f"watch: [{{path: loras}}]\n{KEEP}log: {{path: {place}}}\n"
    assert list(run_faults(text)) == ["log.path"]


@pytest.mark.parametrize("place", ["loras/a.prom", "link/a.prom", "archive/a.prom", "state", "no"])
def test_a_textfile_in_a_wrong_place(run_faults: Faults, loras: Path, place: str) -> None:
    """It must not be in a watched folder or the archive, be a folder, or be in a missing folder."""
    loras.with_name("link").symlink_to("loras")
    (loras.parent / "state.prom").mkdir()
    path = {"state": "state.prom", "no": "no/a.prom"}.get(place, place)
    text = f"watch: [{{path: loras}}]\n{KEEP}metrics: {{textfile: {path}}}\n"
    found = run_faults(text)
    assert list(found) == ["metrics.textfile"]
    assert found["metrics.textfile"].line == text[: text.index("metrics")].count("\n") + 1


def test_a_textfile_that_cannot_be_written(run_faults: Faults, loras: Path) -> None:
    """Nobody can create a file in /sys; a path beside the watched folder has no fault."""
    text = f"watch: [{{path: loras}}]\n{KEEP}metrics: {{textfile: %s}}\n"
    assert list(run_faults(text % "/sys/lensd.prom")) == ["metrics.textfile"]
    assert run_faults(text % f"{loras.parent}/lensd.prom") == {}


@pytest.mark.lengthy
def test_a_folder_without_the_right_to_write(public: Path) -> None:
    """Mode analyze needs only to read; every other mode needs to write."""
    loras = public / "loras"
    loras.mkdir()
    loras.chmod(0o555)
    text = f"archive: {{path: {public}/open/a}}\nstate: {{path: {public}/open/s}}\nwatch:\n"
    (key, remedy), *rest = as_nobody(public, f"{text}  - path: loras\n")
    assert (key, rest) == ("watch[0].path", [])
    assert "`mode: analyze`" in remedy
    assert as_nobody(public, f"{text}  - {{path: loras, mode: analyze}}\n") == []
    loras.chmod(0o000)
    assert [key for key, _ in as_nobody(public, f"{text}  - path: loras\n")] == ["watch[0].path"]


@pytest.mark.lengthy
def test_a_folder_that_cannot_be_created(public: Path) -> None:
    """The remedy names the existing folder, in which lensd cannot create it."""
    text = (
        f"watch: [{{path: open}}]\nstate: {{path: {public}/closed}}\narchive: {{path: closed/a/b}}"
    )
    found = as_nobody(public, text)
    assert [key for key, _ in found] == ["state.path", "archive.path"]
    assert all(f"'{public}/closed'" in remedy for _, remedy in found)


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that all users can read, with one that all can write to and one that none can."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for inside, mode in ((".", 0o755), ("open", 0o777), ("closed", 0o555)):
            (folder / inside).mkdir(exist_ok=True)
            (folder / inside).chmod(mode)
        yield folder


AS_NOBODY = """
import json, os, sys
from lensd.config.faults import FaultyConfigError
from lensd.config.load import load, load_for_run
load(sys.argv[1])  # the imports that it makes need root's access to Python's own folder
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
faults = []
try:
    load_for_run(sys.argv[1])
except FaultyConfigError as error:
    faults = [(fault.key, fault.remedy) for fault in error.faults]
print(json.dumps(faults))
"""


def as_nobody(folder: Path, text: str) -> list[tuple[str, str]]:
    """Return the faults for a user other than root, who can write almost anywhere."""
    file = folder / "config.yaml"
    file.write_text(text)
    file.chmod(0o644)
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, str(file)],
        stdout=subprocess.PIPE,
        check=True,
        timeout=PATIENCE,
    )
    return [(key, remedy) for key, remedy in json.loads(done.stdout)]


def test_links_to_folders_inside_are_warnings(read: Read, loras: Path) -> None:
    """They are named with their targets, at any depth; links to files are not named."""
    (loras / "deep").mkdir()
    (loras / "deep/flux").symlink_to("../../elsewhere")
    (loras.parent / "elsewhere").mkdir()
    (loras / "loop").symlink_to(".")
    (loras / "file").touch()
    (loras / "link.safetensors").symlink_to("file")
    (loras / "broken").symlink_to("nowhere")
    config = read(f"watch: [{{path: loras}}]\n{KEEP}")
    expected = [f"{loras}/deep/flux", f"{loras}/loop"]
    assert expected == symlinked_folders(config.watch[0])
    first, _ = folder_warnings(config)
    assert first.line == 1
    assert f"- path: {loras.parent}/elsewhere" in first.remedy


def test_without_recursive_there_are_no_warnings_about_links(read: Read, loras: Path) -> None:
    """With `recursive: false` lensd enters no folder inside."""
    (loras / "loop").symlink_to(".")
    assert symlinked_folders(read("watch: [{path: loras, recursive: false}]").watch[0]) == []


def test_a_linked_folder_whose_name_is_not_utf8(read: Read, loras: Path) -> None:
    """The warning has only characters that can be printed."""
    os.symlink(b".", os.fsencode(loras) + b"/caf\xe9")
    (warning,) = folder_warnings(read("watch: [{path: loras}]"))
    assert "caf\\xe9" in warning.message.encode().decode()


def test_is_inside_compares_folders_not_letters(tmp_path: Path) -> None:
    """/a/loras-archive is not in /a/loras; paths need not exist."""
    assert is_inside(f"{tmp_path}/loras/x/y", f"{tmp_path}/loras")
    assert is_inside(f"{tmp_path}/loras", f"{tmp_path}/loras")
    assert not is_inside(f"{tmp_path}/loras-archive", f"{tmp_path}/loras")
