"""Help, version, exit codes and messages, which all commands share."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from lensd import __version__
from lensd.cli import COMMANDS, main
from tests.support.limits import PATIENCE

Run = Callable[..., "subprocess.CompletedProcess[str]"]

# The real command line with one more command, which runs the body of a test.
DRIVER = """
import os, signal, sys, time
import click
from lensd import cli
from lensd.errors import ConfigError, LockedError, Skipped, StorageError

@click.command()
def probe():
    {body}

sys.modules["probe"] = sys.modules["__main__"]
cli.COMMANDS["probe"] = ("probe:probe", "A command of the test.")
cli.main(["probe"])
"""


def probe(body: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", DRIVER.format(body=body)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)


# Modules that a command may import when it runs, but no help may: each costs 0.03 s or more.
HEAVY = {"torch", "numpy", "pydantic", "yaml", "structlog", "rich", "watchdog"}
LOADED = """
import sys
from lensd.cli import main
try:
    main(sys.argv[1:], prog_name="lensd")
except SystemExit as end:
    assert not end.code
print(*sorted(sys.modules), file=sys.stderr)
"""


def loaded(*arguments: str) -> tuple[str, set[str]]:
    """Run `lensd`; returns its stdout and the modules that it imported."""
    command = [sys.executable, "-c", LOADED, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE)
    return done.stdout, set(done.stderr.split())


@pytest.mark.parametrize("argument", ["--version", "--help", "-h"])
def test_version_and_help_load_nothing_heavy(argument: str) -> None:
    """They import neither torch, pydantic nor rich, and no module of a command."""
    text, modules = loaded(argument)
    assert max(map(len, text.splitlines())) <= 80
    assert "lensd.cli" in modules
    assert not modules & HEAVY
    commands = {name for name in modules if name.startswith("lensd.cli.")}
    assert commands == {"lensd.cli.surroundings"}


@pytest.mark.parametrize("verb", COMMANDS)
def test_the_help_of_every_command(verb: str) -> None:
    """It needs no configuration, has an example, fits 80 columns, and imports no heavy module."""
    text, modules = loaded(verb, "--help")
    assert max(map(len, text.splitlines())) <= 80
    assert not modules & HEAVY
    assert text.startswith(f"Usage: lensd {verb}")
    assert re.search(rf"^  (sudo )?lensd {verb}\b", text.partition("\n")[2], re.MULTILINE)


@pytest.mark.parametrize("verb", [None, *COMMANDS])
def test_the_examples_of_a_help_can_be_parsed(
    verb: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each example names a command, with options and values that it accepts."""
    monkeypatch.chdir(tmp_path)
    context = click.Context(main)
    command = main.get_command(context, verb) if verb else main
    assert command is not None
    examples = re.findall(r"^    (?:sudo )?lensd (.*)", command.help or "", re.MULTILINE)
    for example in examples:
        name, *words = shlex.split(re.split(r"  +| [|>] ", example)[0])
        for word in words:  # some must be existing files
            if not word.startswith(("-", "/")):
                tmp_path.joinpath(word).parent.mkdir(parents=True, exist_ok=True)
                tmp_path.joinpath(word).touch()
        found = main.get_command(context, name)
        assert found is not None, example
        if isinstance(found, click.Group):
            found, words = found.commands[words[0]], words[1:]
        found.make_context(name, words)
    assert examples


def test_version(lensd: Run) -> None:
    """stdout has name and version."""
    done = lensd("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"lensd {__version__}\n", "")


def test_help_lists_every_command(lensd: Run) -> None:
    """Each command has its line."""
    done = lensd("--help")
    assert done.returncode == 0
    for verb, (_, line) in COMMANDS.items():
        assert f"  {verb} " in done.stdout
        assert line in done.stdout


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["check", "--nonsense"], ["check", "surplus"], ["config", "x"], []]
)
def test_usage_errors_end_with_2(lensd: Run, arguments: list[str]) -> None:
    """stderr has a message and stdout nothing."""
    done = lensd(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage:" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["stats"], "there is no command 'stats'. Did you mean 'status'?"),
        (["config", "exmple"], "Did you mean 'example'?"),
        (["once", "--dryrun"], "--dry-run"),  # click's own words
        (["style.safetensors"], "Did you mean `lensd analyze style.safetensors`?"),
    ],
)
def test_a_mistyped_word_gets_a_suggestion(
    lensd: Run, tmp_path: Path, arguments: list[str], says: str
) -> None:
    """The nearest command or option; for a file instead of a command, `lensd analyze`."""
    (tmp_path / "style.safetensors").touch()
    done = lensd(*arguments)
    assert done.returncode == 2
    assert says in done.stderr


def test_without_a_configuration(lensd: Run) -> None:
    """The error names the default paths and the command that makes one."""
    done = lensd("check")
    assert done.returncode == 4
    assert "~/.config/lensd/config.yaml" in done.stderr
    assert "`lensd init` makes one" in done.stderr


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
    """One line on stderr, without a traceback."""
    done = probe(f"raise {error}")
    assert code == done.returncode
    assert (done.stdout, done.stderr) == ("", "lensd: error: the cause; the remedy\n")


@pytest.mark.parametrize(("value", "code"), [("None", 0), ("0", 0), ("1", 1)])
def test_a_command_returns_its_exit_code(value: str, code: int) -> None:
    """None is 0."""
    assert code == probe(f"return {value}").returncode


def test_a_bug_shows_its_traceback_and_asks_for_a_report() -> None:
    """Exit code 3; the message has the versions that a bug report needs."""
    done = probe('raise ZeroDivisionError("oh")')
    assert (done.returncode, done.stdout) == (3, "")
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError: oh" in done.stderr
    assert f"report it with the lines above (lensd {__version__}" in done.stderr


def test_interrupted() -> None:
    """^C ends lensd with 130 and without a traceback."""
    done = probe("os.kill(os.getpid(), signal.SIGINT); time.sleep(3600)")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "lensd: interrupted\n")


def test_a_closed_stdout_is_no_error(lensd: Run) -> None:
    """`lensd config schema | head` prints no message and ends with 141, as shells expect."""
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
    """Only a closed stdout is expected; any other broken pipe is reported."""
    assert probe("raise BrokenPipeError").returncode == 3


def test_no_stdout_at_all() -> None:
    """Messages are printed even if descriptor 1 is closed."""
    command = f"'{sys.executable}' -m lensd check -c nowhere.yaml >&-"
    done = subprocess.run(
        ["/bin/sh", "-c", command], stderr=subprocess.PIPE, text=True, check=False, timeout=PATIENCE
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
        timeout=PATIENCE,
    )
    assert done.stdout == f"lensd {__version__}\n"


def in_shell(redirection: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = f"{shlex.join([sys.executable, '-m', 'lensd', *arguments])} {redirection}"
    return subprocess.run(
        ["/bin/sh", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
        env={**os.environ, **env},
    )


@pytest.mark.parametrize("arguments", [["config", "example"], ["--help"], ["check", "--help"]])
def test_a_full_disk_under_stdout(arguments: list[str]) -> None:
    """Exit code 5 and a message with the remedy, as for every other full disk."""
    done = in_shell(">/dev/full", *arguments)
    assert done.returncode == 5
    assert done.stderr == (
        "lensd: error: the output cannot be written: No space left on device; free space on its "
        "disk, or write it to another place\n"
    )


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(tmp_path: Path, closed: str) -> None:
    """They become /dev/null: no file gets their numbers, and no command looks for a missing one."""
    (tmp_path / "loras").mkdir()
    config = tmp_path / "config.yaml"
    config.write_text("watch: [{path: loras}]\narchive: {path: a}\nstate: {path: s}\n")
    assert in_shell(closed, "check", "-c", str(config)).returncode == 0
    assert in_shell(closed, "once", "--dry-run", "-c", str(config)).returncode == 0


def test_files_do_not_get_the_numbers_of_closed_streams() -> None:
    """Else what a library prints would go into a file of the user."""
    body = "os.dup2(os.open('/etc/passwd', os.O_RDONLY), 9); print(os.readlink('/proc/self/fd/2'))"
    command = [sys.executable, "-c", DRIVER.format(body=body)]
    done = subprocess.run(
        ["/bin/sh", "-c", f"{shlex.join(command)} 2>&-"],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout) == (0, "/dev/null\n")
