"""The pictures of a terminal: they show what real commands print, and fetch nothing."""

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
    """The folder that is /srv at the terminal, without a LoRA."""
    recording.furnish(tmp_path, files={})
    return tmp_path


@needs_program("unshare")
def test_commands_see_a_terminal_and_srv(home: Path) -> None:
    """What they print, in the order of the commands, without a path of this machine."""
    screen = recording.recorded(home, ["lensd check", "test -t 1 && echo a terminal"])
    lines = [line.rstrip() for line in screen.display if line.strip()]
    assert lines[0] == "$ lensd check"
    assert lines[1] == "config.yaml: no faults"
    assert "/srv/loras, mode ultra" in lines[2]
    assert lines[-1] == "a terminal"
    assert str(home) not in "\n".join(lines)


@needs_program("unshare")
def test_a_line_that_is_written_over_leaves_its_end(home: Path) -> None:
    """As a progress bar does; colours reach the picture."""
    screen = recording.recorded(home, [r"printf 'half\rdone \033[31mred\033[0m\n'"])
    assert "done red" in [line.rstrip() for line in screen.display]
    svg = recording.drawn(screen)
    (color,) = re.findall(r'class="lensd-(r\d+)"[^>]*>red<', svg)
    assert f".lensd-{color} {{ fill: #cc555a }}" in svg


@needs_program("unshare")
def test_a_command_that_fails_leaves_no_picture(home: Path) -> None:
    """The recording ends there, with what the screen showed."""
    with pytest.raises(subprocess.CalledProcessError, match="exit status 7"):
        recording.recorded(home, ["exit 7", "true"])


@pytest.mark.parametrize("name", recording.SCENES)
def test_the_pictures_are_checked_in_and_fetch_nothing(name: str) -> None:
    """Each shows its commands; no font or other thing of another host is in it."""
    svg = (REPOSITORY / f"docs/pictures/{name}.svg").read_text(encoding="utf-8")
    assert not re.search(r"url\((?!#)|href=|@import", svg)
    shown = re.sub(r"<[^>]+>", "", svg).replace("&#160;", " ")
    for command in recording.SCENES[name]:
        assert command.partition(" |")[0] in shown, command
