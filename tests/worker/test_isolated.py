"""What lies in the folder that lensd was started in never runs in the worker."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import lensd
from lensd.worker import isolated
from tests.support.home_server import HomeServer

# What the worker imports, from Python's own library and from others.
HOSTILE = ("random", "runpy", "torch", "numpy")
WITNESS = """
import os
open(os.path.join({folder!r}, "witness-" + __name__), "w").close()
raise RuntimeError("a module of another program")
"""


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder with modules that leave a file behind when they are imported."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    for name in HOSTILE:
        (folder / f"{name}.py").write_text(WITNESS.format(folder=str(folder)))
    return folder


def _witnesses(folder: Path) -> list[Path]:
    return list(folder.glob("witness-*"))


def test_a_file_is_compressed_in_a_folder_with_other_modules(hostile: Path, tmp_path: Path) -> None:
    """`lensd once` there; -P stands for the script `lensd`, which does not look there either."""
    server = HomeServer(tmp_path)
    path = server.drop("style.safetensors", seed=1).path
    done = subprocess.run(
        [sys.executable, "-P", "-m", "lensd", "once", "-c", str(server.config)],
        cwd=hostile, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert [] == _witnesses(hostile)
    assert done.returncode == 0, done.stderr
    assert server.archived(path).exists()


SAYS = "import os, random, sys, runpy; print(random.__file__, os.getcwd(), *sys.argv[1:])\n"


def _copy(to: Path, program: str) -> tuple[str, ...]:
    """The command for a child of another copy of this package, which has this one module more."""
    shutil.copytree(lensd.__path__[0], to / "lensd")
    (to / "lensd" / "said.py").write_text(program)
    return sys.executable, "-P", str(to / "lensd" / "worker" / "isolated.py"), "lensd.said"


def _said(command: tuple[str, ...], environment: Mapping[str, str]) -> list[str]:
    done = subprocess.run(
        command, cwd=isolated.FOLDER, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("variable", ["PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE"])
def test_no_variable_leads_to_other_modules(
    hostile: Path, tmp_path: Path, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon obeys such a variable, since its Python does. Its child does not have it."""
    command = _copy(tmp_path / "copy", SAYS)
    monkeypatch.setenv(variable, str(hostile))
    assert variable not in isolated.environment()
    assert isolated.environment()["PATH"] == os.environ["PATH"]
    file, folder = _said(command, isolated.environment())
    assert (file, folder) == (__import__("random").__file__, "/")
    assert [] == _witnesses(hostile)


def test_a_source_tree_runs_its_own_code(hostile: Path) -> None:
    """Also where another lensd is installed; what lies beside the package hides no module."""
    command = _copy(hostile, f"import lensd; print(lensd.__path__[0]); {SAYS}")
    package, file, *rest = _said((*command, "one", "two"), isolated.environment())
    assert package == str(hostile / "lensd")
    assert file == __import__("random").__file__
    assert rest == ["/", "one", "two"]
    assert [] == _witnesses(hostile)


def test_a_library_beside_the_package_is_found(tmp_path: Path) -> None:
    """`pip install --target FOLDER` puts lensd and what it needs into one folder."""
    command = _copy(tmp_path, "import beside; print(beside.__file__)")
    (tmp_path / "beside.py").write_text("")
    assert _said(command, isolated.environment()) == [str(tmp_path / "beside.py")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_all_of_a_terminal_leaves_a_start_alone(
    number: signal.Signals, tmp_path: Path
) -> None:
    """^C reaches the child too, maybe while it imports torch. Its parent ends it, and reports."""
    program = f"import os; os.kill(os.getpid(), {int(number)}); print('goes on')"
    assert _said(_copy(tmp_path, program), isolated.environment()) == ["goes", "on"]
