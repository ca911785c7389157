"""What all verbs share: help, version, exit codes, messages."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lensd import __version__
from lensd.cli import LAZY

Run = Callable[..., "subprocess.CompletedProcess[str]"]

# A verb of the test's own beside the real ones, run by the real command line.
DRIVER = """
import os, signal, sys, time
import click
from lensd import cli
from lensd.errors import ConfigError, LockedError, Skipped, StorageError

@click.command()
def probe():
    {body}

sys.modules["probe"] = sys.modules["__main__"]
cli.LAZY["probe"] = ("probe:probe", "A verb of the test.")
cli.main(["probe"])
"""


def probe(body: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", DRIVER.format(body=body)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("argument", ["--version", "--help", "-h"])
def test_version_and_help_load_nothing_heavy(argument: str) -> None:
    """Neither torch nor pydantic nor any verb's module is imported for them."""
    script = (
        "import sys\n"
        "from lensd.cli import main\n"
        "try:\n    main([sys.argv[1]])\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "print(*sorted(sys.modules))\n"
    )
    command = [sys.executable, "-c", script, argument]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    loaded = set(done.stdout.split())
    assert "lensd.cli" in loaded
    assert not loaded & {"torch", "pydantic", "numpy", "yaml", "structlog"}
    assert not {name for name in loaded if name.startswith("lensd.cli.")}


def test_version(lensd: Run) -> None:
    """Name and version, on stdout."""
    done = lensd("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"lensd {__version__}\n", "")


def test_help_names_every_verb(lensd: Run) -> None:
    """Each verb with its line."""
    done = lensd("--help")
    assert done.returncode == 0
    for verb, (_, line) in LAZY.items():
        assert f"  {verb} " in done.stdout
        assert line in done.stdout


@pytest.mark.parametrize("verb", LAZY)
def test_every_verb_can_be_loaded_and_explains_itself(lensd: Run, verb: str) -> None:
    """Its help works, without a configuration."""
    done = lensd(verb, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"lensd {verb}" in done.stdout


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["check", "--nonsense"], ["check", "surplus"], ["config", "x"], []]
)
def test_usage_errors_end_with_2(lensd: Run, arguments: list[str]) -> None:
    """A message on stderr, nothing on stdout."""
    done = lensd(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage:" in done.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ('ConfigError("the cause; the remedy")', 4),
        ('StorageError("the cause; the remedy")', 5),
        ('LockedError("the cause; the remedy")', 6),
        ('Skipped("symlink", "the cause; the remedy")', 1),
    ],
)
def test_an_expected_error_is_a_message_and_its_code(error: str, code: int) -> None:
    """One line on stderr without a traceback."""
    done = probe(f"raise {error}")
    assert code == done.returncode
    assert (done.stdout, done.stderr) == ("", "lensd: error: the cause; the remedy\n")


@pytest.mark.parametrize(("value", "code"), [("None", 0), ("0", 0), ("1", 1)])
def test_a_verb_returns_its_exit_code(value: str, code: int) -> None:
    """None is 0."""
    assert code == probe(f"return {value}").returncode


def test_a_bug_shows_its_traceback_and_asks_for_a_report() -> None:
    """Exit code 3, with what a report needs."""
    done = probe('raise ZeroDivisionError("oh")')
    assert (done.returncode, done.stdout) == (3, "")
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError: oh" in done.stderr
    assert f"report it with the lines above (lensd {__version__}" in done.stderr


def test_interrupted() -> None:
    """^C ends with 130 and without a traceback."""
    done = probe("os.kill(os.getpid(), signal.SIGINT); time.sleep(30)")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "lensd: interrupted\n")


def test_a_reader_that_leaves_is_no_error(lensd: Run) -> None:
    """`lensd config schema | head`: no message, the shells' code for it."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = lensd(
            "config", "schema", capture_output=False, stdout=writing, stderr=subprocess.PIPE
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_another_broken_pipe_is_a_bug() -> None:
    """Only stdout's reader may leave; a broken pipe elsewhere is not hushed up."""
    assert probe("raise BrokenPipeError").returncode == 3


def test_no_stdout_at_all() -> None:
    """A message still comes when descriptor 1 is closed."""
    command = f"'{sys.executable}' -m lensd check -c nowhere.yaml >&-"
    done = subprocess.run(
        ["/bin/sh", "-c", command], stderr=subprocess.PIPE, text=True, check=False, timeout=60
    )
    assert done.returncode == 4
    assert "nowhere.yaml" in done.stderr


def test_the_installed_script_is_the_same(tmp_path: Path) -> None:
    """`lensd` beside the interpreter is `python -m lensd`."""
    script = Path(sys.executable).with_name("lensd")
    if not script.exists():
        pytest.skip("lensd is not installed beside this interpreter")
    done = subprocess.run(
        [script, "--version"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        timeout=60,
    )
    assert done.stdout == f"lensd {__version__}\n"
