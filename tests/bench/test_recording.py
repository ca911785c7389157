"""bench.recording: the pictures show the output of real commands, and fetch nothing."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from bench import recording
from tests.docs.rendering import REPOSITORY
from tests.support.marks import needs_program


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The folder that is mounted at /srv, without a LoRA."""
    recording.write_home(tmp_path, files={})
    return tmp_path


@needs_program("unshare")
def test_commands_see_a_terminal_and_srv(home: Path) -> None:
    """Their output is in the order of the commands, and has no path of this machine."""
    screen = recording.record(home, ["lensd check", "test -t 1 && echo a terminal"])
    lines = [line.rstrip() for line in screen.display if line.strip()]
    assert lines[0] == "$ lensd check"
    assert lines[1] == "config.yaml: no faults"
    assert "/srv/loras, mode ultra" in lines[2]
    assert lines[-1] == "a terminal"
    assert str(home) not in "\n".join(lines)


@needs_program("unshare")
def test_an_overwritten_line_shows_its_last_state(home: Path) -> None:
    """Progress bars overwrite their line so; the picture has the colours too."""
    screen = recording.record(home, [r"printf 'half\rdone \033[31mred\033[0m\n'"])
    assert "done red" in [line.rstrip() for line in screen.display]
    svg = recording.draw(screen)
    (color,) = re.findall(r'class="lensd-(r\d+)"[^>]*>red<', svg)
    assert f".lensd-{color} {{ fill: #cc555a }}" in svg


@needs_program("unshare")
def test_a_command_that_fails_leaves_no_picture(home: Path) -> None:
    """The recording ends with an error that has the text of the screen."""
    with pytest.raises(subprocess.CalledProcessError, match="exit status 7"):
        recording.record(home, ["exit 7", "true"])


@pytest.mark.parametrize("name", recording.SCENES)
def test_the_pictures_are_checked_in_and_fetch_nothing(name: str) -> None:
    """Each shows its commands, and refers to no font or other file of a network."""
    svg = (REPOSITORY / f"docs/pictures/{name}.svg").read_text(encoding="utf-8")
    assert not re.search(r"url\((?!#)|href=|@import", svg)
    shown = re.sub(r"<[^>]+>", "", svg).replace("&#160;", " ")
    for command in recording.SCENES[name]:
        assert command.partition(" |")[0] in shown, command
