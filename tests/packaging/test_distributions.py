"""What is built from this tree is complete, and works where nothing else of the tree is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.packaging.building import REPOSITORY, Built, Sandbox
from tests.support.marks import needs_program
from tests.support.realistic import small_lora

pytestmark = pytest.mark.slow


@needs_program("git")
def test_the_sdist_has_every_file_of_the_tree(built: Built) -> None:
    """Tests, benches, documentation, systemd's files and the Dockerfile as well."""
    if not (REPOSITORY / ".git").exists():
        pytest.skip("this tree is no clone, so that nothing tells which files belong to it")
    command = ["git", "-C", str(REPOSITORY), "ls-files", "--cached", "--others", "-z"]
    listed = subprocess.check_output([*command, "--exclude-standard"], text=True)
    ours = {name for name in listed.split("\0") if name and (REPOSITORY / name).is_file()}
    with tarfile.open(built.sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert ours <= packed
    assert packed - ours == {"PKG-INFO"}


def test_the_wheel_has_every_file_of_the_package_and_no_other(built: Built) -> None:
    """Data files and py.typed too: whatever lies in lensd/ and is no bytecode."""
    with zipfile.ZipFile(built.wheel) as archive:
        names = archive.namelist()
    data = {name.partition(".data/")[2] for name in names if ".data/" in name}
    assert data == {"data/share/man/man1/lensd.1"}
    packed = {name for name in names if not re.search(r"\.(dist-info|data)/", name)}
    ours = {
        str(path.relative_to(REPOSITORY))
        for path in (REPOSITORY / "lensd").rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".so")
    }
    units = {
        f"lensd/systemd/units/{path.relative_to(REPOSITORY / 'systemd')}"
        for path in (REPOSITORY / "systemd").rglob("*")
        if path.is_file()
    }
    assert {"lensd/py.typed", "lensd/logs/events.schema.json"} <= ours
    assert ours | units == {name for name in packed if not name.endswith(".so")}


@needs_program("c++")
def test_the_wheel_has_the_kernels_and_names_their_platform(built: Built) -> None:
    """One wheel for every version of Python, but for one kind of processor."""
    with zipfile.ZipFile(built.wheel) as archive:
        kernels = [name for name in archive.namelist() if name.endswith(".so")]
    assert kernels
    assert "-py3-none-linux_" in built.wheel.name


def test_a_build_without_a_compiler_makes_a_wheel_of_python(built: Built, tmp_path: Path) -> None:
    """It says so in one line, and the wheel fits every machine."""
    with tarfile.open(built.sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (tree,) = tmp_path.glob("lensd-*/")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", str(tree)]
    done = subprocess.run(
        command,
        env=os.environ | {"CXX": "there-is-no-compiler"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "no C++ compiler was found; it computes in Python" in done.stdout + done.stderr
    (wheel,) = (tree / "dist").glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".so")]


def test_the_wheel_says_what_it_is(built: Built) -> None:
    """Licence, typing and the README, for whoever looks at the installed package."""
    with zipfile.ZipFile(built.wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = archive.read(name).decode()
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
    assert "License-Expression: Apache-2.0\n" in metadata
    assert "Classifier: Typing :: Typed\n" in metadata
    assert (REPOSITORY / "README.md").read_text(encoding="utf-8") in metadata


def test_the_installed_wheel_works(built: Built, sandbox: Sandbox) -> None:
    """In an environment of its own: version, example, check, and a file compressed and expanded."""
    sandbox.runs("python3", "-m", "venv", "env")
    sandbox.runs("env/bin/pip", "install", "--quiet", str(built.wheel))
    program = "env/bin/lensd"
    where = sandbox.runs("env/bin/python", "-c", "import lensd; print(lensd.__file__)")
    assert where.startswith(str(sandbox.folder / "env"))
    assert sandbox.runs(program, "--version").startswith("lensd ")
    assert "watch:" in sandbox.runs(program, "config", "example")
    assert '"properties"' in sandbox.runs(program, "config", "schema")
    made = small_lora(sandbox.folder / "style.safetensors")
    sandbox.runs(program, "compress", "style.safetensors", "-o", "small.safetensors")
    assert (sandbox.folder / "small.safetensors").stat().st_size < made.path.stat().st_size
    sandbox.runs(program, "expand", "small.safetensors", "-o", "floats.safetensors")
    load = "import lensd; print(len(lensd.load_file('small.safetensors')))"
    assert int(sandbox.runs("env/bin/python", "-c", load)) > 0
    _watch(sandbox, program)


def _watch(sandbox: Sandbox, program: str) -> None:
    """The daemon's rooms read package data of their own: the log's schema."""
    for folder in ("loras", "archive"):
        (sandbox.folder / folder).mkdir()
    shutil.copy(sandbox.folder / "style.safetensors", sandbox.folder / "loras")
    (sandbox.folder / "config.yaml").write_text(
        "watch: [{path: loras}]\narchive: {path: archive}\nstate: {path: state}\n"
        "settle: {quiet_seconds: 0.3}\n"
    )
    assert '"file.compressed"' in sandbox.runs(program, "once", "--yes")
    sandbox.runs(program, "restore", "--all")


def test_types_are_seen_by_a_type_checker(built: Built, sandbox: Sandbox) -> None:
    """py.typed: mypy reads the signature of `lensd.load_file` from the installed wheel."""
    sandbox.runs("python3", "-m", "venv", "env")
    sandbox.runs("env/bin/pip", "install", "--quiet", "--no-deps", str(built.wheel))
    (sandbox.folder / "user.py").write_text("import lensd\n\nreveal_type(lensd.load_file)\n")
    said = sandbox.runs("mypy", "--python-executable", "env/bin/python", "user.py")
    assert "def (path: str | os.PathLike[str]) -> dict[str, " in said.replace("builtins.", "")
