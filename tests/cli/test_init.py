"""`lensd init`, by options and by the questions at a terminal, over real folder trees."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lensd.config.load import load
from tests.support import programs
from tests.support.realistic import small_lora
from tests.support.terminal import AtTerminal

Run = Callable[..., "subprocess.CompletedProcess[str]"]
COMMAND = [sys.executable, "-m", "lensd", "init"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of a person with ComfyUI and Forge; the files are theirs."""
    folder = tmp_path / "home"
    programs.comfyui(folder / "ComfyUI")
    programs.webui(folder / "forge", "modules_forge")
    small_lora(folder / "ComfyUI/models/loras/style.safetensors", seed=1)
    monkeypatch.setenv("HOME", str(folder))
    return folder


def places(tmp_path: Path) -> list[str]:
    """Options, so that nothing is written outside of the test's folder, also as root."""
    return ["-c", f"{tmp_path}/etc/config.yaml", "--state", f"{tmp_path}/state"]


def test_options_alone_write_a_configuration(lensd: Run, home: Path, tmp_path: Path) -> None:
    """--yes takes all folders that were found, and as targets their programs; check passes."""
    done = lensd("init", "--yes", "--archive", f"{tmp_path}/archive", *places(tmp_path))
    assert done.returncode == 0, done.stderr
    config = load(f"{tmp_path}/etc/config.yaml")
    assert [w.path for w in config.watch] == [
        f"{home}/ComfyUI/models/loras",
        f"{home}/forge/models/Lora",
    ]
    assert config.watch[0].settings.targets == ("comfyui", "forge")
    assert {w.existing for w in config.watch} == {"leave"}
    assert config.archive.path == f"{tmp_path}/archive"
    assert config.state.path == f"{tmp_path}/state"
    assert "no faults" in done.stdout
    assert "  lensd once --dry-run -c " in done.stdout
    assert "\n      shows what it would do to the files there\n" in done.stdout


def test_the_configuration_explains_its_keys(lensd: Run, home: Path, tmp_path: Path) -> None:
    """Each key of the example is there, with its comment."""
    lensd("init", "--yes", *places(tmp_path))
    text = Path(tmp_path, "etc/config.yaml").read_text()
    example = lensd("config", "example").stdout
    comments = [line for line in example.splitlines() if line.lstrip().startswith("# ")]
    assert set(comments[8:]) <= set(text.splitlines())
    assert set(yaml.safe_load(text)) == set(yaml.safe_load(example))
    assert str(home) in text


def test_the_archive_on_the_same_disk_is_a_warning(lensd: Run, home: Path, tmp_path: Path) -> None:
    """It says that no space becomes free, and what helps; one elsewhere gives none."""
    options = ["init", str(home / "ComfyUI/models/loras"), "--yes", "--force", *places(tmp_path)]
    done = lensd(*options, "--archive", f"{tmp_path}/archive")
    assert "is on the same disk as" in done.stderr
    assert "archive.keep_days" in done.stderr
    if os.stat("/dev/shm").st_dev != os.stat(home).st_dev:  # noqa: S108 - nothing is written there
        done = lensd(*options, "--archive", "/dev/shm/lensd-archive")  # noqa: S108 - the same
        assert "same disk" not in done.stderr


def test_a_configuration_is_not_overwritten(lensd: Run, home: Path, tmp_path: Path) -> None:
    """Only with --force, which keeps the old one."""
    path = tmp_path / "etc/config.yaml"
    path.parent.mkdir()
    path.write_text("mine")
    done = lensd("init", "--yes", *places(tmp_path))
    assert (done.returncode, path.read_text()) == (4, "mine")
    assert "there is already a configuration" in done.stderr
    assert lensd("init", "--yes", "--force", *places(tmp_path)).returncode == 0
    assert Path(f"{path}.old").read_text() == "mine"
    assert str(home) in path.read_text()
    path.write_text("mine too")
    assert lensd("init", "--yes", "--force", *places(tmp_path)).returncode == 0
    assert Path(f"{path}.old").read_text() == "mine"
    assert Path(f"{path}.old.2").read_text() == "mine too"


def test_a_folder_is_no_configuration(lensd: Run, home: Path, tmp_path: Path) -> None:
    """--force does not move it away."""
    (tmp_path / "etc/config.yaml").mkdir(parents=True)
    for force in ([], ["--force"]):
        done = lensd("init", str(home), "--yes", *force, *places(tmp_path))
        assert done.returncode == 4
        assert "is a folder; name a file in it: -c " in done.stderr
        assert (tmp_path / "etc/config.yaml").is_dir()


def test_a_device_is_no_configuration(lensd: Run, home: Path, tmp_path: Path) -> None:
    """--force moved it away, as /dev/null of root's."""
    (tmp_path / "etc").mkdir()
    pipe = tmp_path / "etc/config.yaml"
    os.mkfifo(pipe)
    done = lensd("init", str(home), "--yes", "--force", *places(tmp_path))
    assert done.returncode == 4
    assert "is a device or a pipe" in done.stderr
    assert [pipe] == list(pipe.parent.iterdir())
    assert pipe.is_fifo()


@pytest.mark.slow
def test_names_are_unique(lensd: Run, home: Path, tmp_path: Path) -> None:
    """Two folders of one name get the names of the folders above them too."""
    one, two = (programs.comfyui(home / name) for name in ("a/ComfyUI", "b/ComfyUI"))
    assert lensd("init", str(one), str(two), "--yes", *places(tmp_path)).returncode == 0
    config = load(f"{tmp_path}/etc/config.yaml")
    names = [w.name for w in config.watch]
    assert names == ["a-ComfyUI-models-loras", "b-ComfyUI-models-loras"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["a: b # c", "'", '"', "ja, nein", "null", "12", "ünï 漢😀", "{x}"]
)
def test_hostile_names_are_read_back(lensd: Run, tmp_path: Path, name: str) -> None:
    """YAML would take some of them for something else."""
    folder = tmp_path / "x" / name
    folder.mkdir(parents=True)
    done = lensd("init", str(folder), "--yes", *places(tmp_path))
    assert done.returncode == 0, done.stdout
    (watch,) = load(f"{tmp_path}/etc/config.yaml").watch
    assert (watch.path, watch.name) == (str(folder), name)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["missing"], 4, "there is no folder"),
        (["--targets", "comfy"], 2, "did you mean comfyui?"),
        (["--targets", ","], 2, "no program is named"),
        (["x\udcff"], 4, "a configuration cannot contain the path"),
    ],
)
def test_wrong_options(
    lensd: Run, home: Path, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    """Each has a message, and nothing is written."""
    assert home.is_dir()
    Path(tmp_path, "x\udcff").mkdir()
    done = lensd("init", *arguments, "--yes", *places(tmp_path))
    assert done.returncode == code
    assert words in done.stderr
    assert not (tmp_path / "etc").exists()


def test_without_folders_and_terminal_it_asks_for_one(
    lensd: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is found in an empty home."""
    if any(Path(top).is_dir() and any(Path(top).iterdir()) for top in ("/opt", "/srv")):
        pytest.skip("this machine may have programs")
    monkeypatch.setenv("HOME", str(tmp_path))
    done = lensd("init", "--yes", *places(tmp_path))
    assert done.returncode == 2
    assert "name one: lensd init" in done.stderr


def test_a_conversation(home: Path, tmp_path: Path) -> None:
    """It shows what it found, asks for the rest, refuses an archive in a watched folder."""
    with AtTerminal([*COMMAND, *places(tmp_path)], tmp_path, columns=200) as terminal:
        terminal.wait_for(r"Watch all of these folders\? \[Y/n\]")
        assert f"ComfyUI in {home}/ComfyUI" in terminal.text
        assert f"{home}/ComfyUI/models/loras: 1 file, " in terminal.text
        terminal.type("n\n")
        terminal.wait_for(r"Watch .*/ComfyUI/models/loras\? \[y/N\]")
        terminal.type("y\n")
        terminal.wait_for(r"Watch .*/forge/models/Lora\? \[y/N\]")
        terminal.type("\n")
        terminal.wait_for(r"Another folder")
        terminal.type("/does/not/exist\n")
        terminal.wait_for("there is no folder /does/not/exist")
        terminal.type("\n")
        terminal.wait_for(r"Which of them load these LoRAs\? \[comfyui\]")
        terminal.type("comfyui, diffuser\n")
        terminal.wait_for("did you mean diffusers")
        terminal.type("comfyui, diffusers\n")
        terminal.wait_for(r"Folder for the archive")
        terminal.type(f"{home}/ComfyUI/models/loras/old\n")
        terminal.wait_for("is inside the watched folder")
        terminal.type(f"{tmp_path}/archive\n")
        terminal.wait_for(r"1 file, .* there now\. Compress them too\? \[y/N\]")
        terminal.type("y\n")
        if Path("/run/systemd/system").is_dir() and os.geteuid() == 0:
            terminal.wait_for("as a service")
            terminal.type("n\n")
        assert terminal.wait() == 0, terminal.text
        assert "no faults" in terminal.text
    (watch,) = load(f"{tmp_path}/etc/config.yaml").watch
    assert watch.path == f"{home}/ComfyUI/models/loras"
    assert watch.existing == "compress"
    assert watch.settings.targets == ("comfyui", "diffusers")


def test_no_word_is_broken(home: Path, tmp_path: Path) -> None:
    """At 60 columns, where paths and the default of a question are longer than a line."""
    programs.webui(home / "a-long-name-of-a-folder-webui", "launch.py")
    with AtTerminal([*COMMAND, *places(tmp_path)], tmp_path, columns=60) as terminal:
        terminal.wait_for("Watch all of these folders")
        terminal.type("\n")
        terminal.wait_for("Another folder")
        terminal.type("\n")
        terminal.wait_for("Folder for the archive|Which of them")
        words = set(terminal.text.split())
        assert {"1", "file,", "40.3", "kB", "[comfyui,", "a1111,", "forge]:"} <= words, (
            terminal.text
        )


def test_interrupting_writes_nothing(home: Path, tmp_path: Path) -> None:
    """^C at a question: it says so, and ends with 130."""
    assert home.is_dir()
    with AtTerminal([*COMMAND, *places(tmp_path)], tmp_path, columns=200) as terminal:
        terminal.wait_for(r"Watch all of these folders\?")
        terminal.signal(signal.SIGINT)
        assert terminal.wait() == 128 + signal.SIGINT
    assert terminal.lines[-1] == "lensd: interrupted; nothing was written"
    assert "Aborted" not in terminal.text
    assert not (tmp_path / "etc").exists()


def test_without_rights_the_message_names_the_file(lensd: Run, home: Path, tmp_path: Path) -> None:
    """A folder that cannot be made: a file has its name."""
    assert home.is_dir()
    (tmp_path / "etc").touch()
    done = lensd("init", "--yes", *places(tmp_path))
    assert done.returncode == 4
    assert "cannot write" in done.stderr
