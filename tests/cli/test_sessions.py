"""Sessions at a terminal: the first configuration of README, `run`, a drop, and ^C in `once`."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

import pytest

from tests.support.home_server import HomeServer
from tests.support.realistic import small_lora
from tests.support.terminal import AtTerminal

SHOWN = 20  # files of one outcome that have a line each
README = Path(__file__).parents[2] / "README.md"
COLUMNS = pytest.mark.parametrize(
    "columns",
    [pytest.param(60, marks=pytest.mark.slow), 80, pytest.param(120, marks=pytest.mark.slow)],
)


def _lensd(folder: Path, *arguments: str, columns: int) -> AtTerminal:
    return AtTerminal([sys.executable, "-m", "lensd", *arguments], folder, columns=columns)


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """A folder with the first configuration of README, and one LoRA that was there before."""
    found = re.search(r"cat > config.yaml <<'YAML'\n(.*?)YAML\n", README.read_text(), re.DOTALL)
    assert found
    settle = "settle: {quiet_seconds: 1, unproven_seconds: 2}\n"
    (tmp_path / "config.yaml").write_text(found[1] + settle)
    for name in ("loras", "lora-archive", "elsewhere"):
        (tmp_path / name).mkdir()
    small_lora(tmp_path / "loras/ink.safetensors", seed=1)
    return tmp_path


def _drop(first: Path, name: str, seed: int) -> Path:
    made = small_lora(first / "elsewhere" / Path(name).name, seed=seed).path
    return made.rename(first / "loras" / name)


def _fits(terminal: AtTerminal, columns: int) -> bool:
    """Whether no line fills the last column, where the terminal would have wrapped it."""
    return all(len(line) <= columns for line in terminal.lines) and "{" not in terminal.text


@COLUMNS
def test_run_says_what_it_does(first: Path, columns: int) -> None:
    """What it watches, where it logs, how to end it; what waits and why; a line a file; the end."""
    with _lensd(first, "run", columns=columns) as terminal:
        terminal.wait_for("^watching 1 folder$")
        head = " ".join(terminal.text.split())
        for told in (
            f"watches loras: {first}/loras" if columns == 120 else "watches loras:",
            "lensd.log",
            "^C ends lensd; `lensd status` in another terminal shows more",
            "1 file in loras (40.3 kB) stays as it is (existing: leave);",
            "`lensd once` compresses it",
        ):
            assert told in head, terminal.text
        part = first / "loras/style.safetensors.part"
        part.touch()
        _drop(first, "style.safetensors", 2)
        terminal.wait_for(r"^waiting: loras/style\.safetensors: unfinished")
        part.unlink()
        terminal.wait_for(r"^compressed  loras/style\.safetensors: 40\.3 kB -> \S+ kB")
        terminal.wait_for("^watching 1 folder$")
        terminal.signal(signal.SIGINT)
        assert terminal.wait() == 0
    assert terminal.lines[-1] == "lensd: stopped"
    assert _fits(terminal, columns), terminal.text
    assert '"event": "file.compressed"' in (first / "lensd.log").read_text()


@COLUMNS
def test_once_can_be_interrupted_and_continued(first: Path, columns: int) -> None:
    """The wait is explained; ^C says what is left and how to go on; the rest counts in the bar."""
    for seed, name in enumerate(("style", "poster", "sketch")):
        _drop(first, f"{name}.safetensors", seed + 2)
    with _lensd(first, "once", "--yes", columns=columns) as terminal:
        terminal.wait_for(r"^waiting until 4 files are quiet \(\d+ s\)$")
        terminal.wait_for("^starting the worker process$")
        terminal.signal(signal.SIGINT)
        assert terminal.wait() == 128 + signal.SIGINT
    text = " ".join(terminal.text.split())
    assert "4 files stay queued; `lensd once` or `lensd run` goes on with them" in text
    assert "no files to process" not in text
    with _lensd(first, "once", "--dry-run", columns=columns) as plan:
        assert plan.wait() == 0
    assert re.search(r"ultra +4 |ultra: 4 files", plan.text), plan.text
    with _lensd(first, "once", "--yes", columns=columns) as terminal:
        assert terminal.wait() == 0
    assert "4/4 " in terminal.raw.decode()
    assert "lensd: 4 compressed" in terminal.lines
    assert _fits(terminal, columns), terminal.text


def test_a_no_changes_nothing(first: Path) -> None:
    """`once` asks after its plan: no is 0 and ^D is 130, each with a message."""
    for answer, code, message in (
        ("n\n", 0, "lensd: nothing was changed"),
        ("\x04", 130, "lensd: interrupted; nothing was written"),
    ):
        with _lensd(first, "once", columns=80) as terminal:
            terminal.wait_for(r"^Go on\? \[y/N\]")
            terminal.type(answer)
            assert terminal.wait() == code
        assert terminal.lines[-1] == message
    assert not (first / "lensd-state").exists()


def test_a_long_name_leaves_room_for_the_reason(first: Path) -> None:
    """The path is shortened in its middle."""
    name = f"{'a-name-as-long-as-people-give-them-' * 3}v2.safetensors"
    with _lensd(first, "run", columns=80) as terminal:
        terminal.wait_for("^watching 1 folder$")
        (first / f"loras/{name}.part").touch()
        _drop(first, name, 2)
        terminal.wait_for(r"^waiting: loras/\S*….*v2\.safetensors: unfinished download: ")
        terminal.signal(signal.SIGINT)
        assert terminal.wait() == 0


def test_run_without_a_log_path_prints_no_json(first: Path) -> None:
    """At a terminal; into a pipe it prints JSON alone."""
    config = first / "config.yaml"
    config.write_text(config.read_text().replace("log:\n  path: lensd.log", "log: {}"))
    with _lensd(first, "run", columns=80) as terminal:
        terminal.wait_for("^watching 1 folder$")
        assert "no log is written; set log.path for one" in terminal.text
        terminal.signal(signal.SIGTERM)
        assert terminal.wait() == 0
    assert "{" not in terminal.text


def test_many_files_do_not_print_many_lines(tmp_path: Path) -> None:
    """The first ones have a line, the others are counted; -v prints a line for each."""
    server = HomeServer(tmp_path)
    server.configure(watch=[{"path": str(server.loras)}])
    for number in range(SHOWN + 5):
        (server.loras / f"{number:02}.safetensors").write_text("<html>not found</html>")
    command = ("once", "--yes", "-c", str(server.config))
    with _lensd(tmp_path, *command, columns=200) as terminal:
        assert terminal.wait() == 0
    shown = [line for line in terminal.lines if line.startswith("skipped ")]
    assert len(shown) == SHOWN
    assert "more files are skipped; -v prints a line for each" in terminal.text
    assert f"lensd: {SHOWN + 5} skipped" in terminal.lines
    with _lensd(tmp_path, *command, "--redo", "-v", columns=200) as terminal:
        assert terminal.wait() == 0
    assert terminal.text.count("skipped   ") == SHOWN + 5


def test_once_notices_what_was_deleted(first: Path) -> None:
    """Also where it has nothing to do: the totals and the log know it then."""
    _drop(first, "style.safetensors", 2)
    with _lensd(first, "once", "--yes", columns=80) as terminal:
        assert terminal.wait() == 0
    (first / "loras/ink.safetensors").unlink()
    with _lensd(first, "once", columns=80) as terminal:
        assert terminal.wait() == 0
    assert terminal.lines == ["loras: nothing to do; --redo would process 1 file again"]
    with _lensd(first, "status", columns=80) as terminal:
        assert terminal.wait() == 0
    assert "\nfiles       1 compressed\n" in terminal.text
    assert '"event": "file.deleted"' in (first / "lensd.log").read_text()


def test_pause_and_resume_print_messages_only(tmp_path: Path) -> None:
    """Without a daemon and without log.path, stdout stays empty."""
    server = HomeServer(tmp_path)
    for verb in ("pause", "resume"):
        done = server.lensd(verb)
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        assert f"lensd: {verb}d: everything" in done.stderr


def test_restore_in_a_pipe_prints_messages_only(tmp_path: Path) -> None:
    """Without a daemon and without log.path, stdout stays empty."""
    server = HomeServer(tmp_path)
    path = server.drop("style.safetensors", seed=1).path
    server.once()
    done = server.lensd("restore", path)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "lensd: restored " in done.stderr
    assert "{" not in done.stderr


@pytest.mark.slow
def test_once_beside_a_daemon_lets_the_daemon_process_the_files(tmp_path: Path) -> None:
    """Also the files that `existing: leave` left alone. Another `run` names the first one."""
    server = HomeServer(tmp_path)
    path = server.drop("style.safetensors", seed=1).path
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        done = server.lensd("once")
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        assert "lensd takes 1 file; `lensd status` shows how far it is" in done.stderr
        assert daemon.wait_for_file(path)["event"] == "file.compressed"
        second = server.lensd("run")
        pid = daemon.process.pid
        assert second.returncode == 6
        assert f"(process {pid})" in second.stderr
        assert f"`systemctl stop lensd` if it is the service, else `kill {pid}`" in second.stderr
        done = server.lensd("once", "--redo")
        assert "lensd takes 1 file" in done.stderr
        assert daemon.wait_for_file(path)["event"] in ("file.compressed", "file.kept")
