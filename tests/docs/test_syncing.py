"""docs/syncing.md: its rsync recipes are run, with real files and a real daemon."""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lensd.store.fs import temporary_name
from tests.docs.rendering import REPOSITORY
from tests.support.home_server import HomeServer, Seen
from tests.support.limits import PATIENCE
from tests.support.marks import needs_program
from tests.support.running import RunningDaemon

PAGE = (REPOSITORY / "docs/syncing.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"<!-- recipe: ([a-z ]+) -->\n```sh\n(.*?)```", PAGE, re.DOTALL))

pytestmark = needs_program("rsync")


class Synced:
    """A PC with original LoRAs, a laptop, and the server that both sync with."""

    def __init__(self, server: HomeServer, daemon: RunningDaemon) -> None:
        self.server = server
        self.daemon = daemon
        self.pc = server.top / "pc"
        self.laptop = server.top / "laptop"
        for folder in (self.pc, self.laptop):
            folder.mkdir()

    def on_pc(self, name: str, **of_file: int) -> Path:
        """A file on the PC, an hour old: rsync tells dates apart by the second."""
        path = self.server.make(name, **of_file).path.rename(self.pc / name)
        found = path.stat()
        os.utime(path, (found.st_atime - 3600, found.st_mtime - 3600))
        return path

    def run(self, recipe: str) -> list[str]:
        """The files that a recipe transfers."""
        here = self.laptop if recipe == "from the server" else self.pc
        places = {"~/loras/": f"{here}/", "nas:/srv/loras/": f"{self.server.loras}/"}
        words = [places.get(word, word) for word in shlex.split(RECIPES[recipe])]
        return self.rsync(*words[1:])

    def rsync(self, *words: str | Path) -> list[str]:
        done = subprocess.run(
            ["rsync", "--out-format=%i %n", *words],
            capture_output=True, text=True, check=False, timeout=PATIENCE,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return [line.split(" ", 1)[1] for line in done.stdout.splitlines() if line[1] == "f"]

    def settled(self) -> None:
        """Wait until the daemon has been through all that was there: a file of its own tells."""
        mark = self.server.make(f"mark-{len(self.daemon.lines)}.safetensors", seed=99).path
        self.daemon.wait_for_file(self.server.move_in(mark), "file.compressed")
        (self.server.loras / mark.name).unlink()

    def ends(self, path: Path) -> int:
        """How often a file came to an end."""
        return self.daemon.of(path).count("file.compressed")


@pytest.fixture
def synced(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Synced]:
    server = HomeServer(tmp_path)
    server.configure(defaults=getattr(request, "param", None))
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        yield Synced(server, daemon)
        assert daemon.stop() == 0


@pytest.mark.slow
def test_to_the_server_and_on_to_the_laptop(synced: Synced) -> None:
    """Each file is sent once and compressed once; a second run of both does nothing.

    New files come later, too; half a file is no job, and no temporary reaches the laptop.
    """
    synced.on_pc("first.safetensors", seed=1)
    assert synced.run("to the server") == ["first.safetensors"]
    path = synced.server.loras / "first.safetensors"
    synced.daemon.wait_for_file(path, "file.compressed")
    output = Seen.of(path)
    assert synced.run("to the server") == []
    (synced.server.loras / temporary_name("0123")).write_text("under way")
    assert synced.run("from the server") == ["first.safetensors"]
    assert os.listdir(synced.laptop) == ["first.safetensors"]
    assert synced.run("from the server") == []
    assert Seen.of(synced.laptop / path.name).sha256 == output.sha256
    synced.on_pc("second.safetensors", seed=2)
    assert synced.run("to the server") == ["second.safetensors"]
    synced.daemon.wait_for_file(synced.server.loras / "second.safetensors", "file.compressed")
    synced.settled()
    assert synced.ends(path) == 1
    assert output == Seen.of(path)


@pytest.mark.slow
@pytest.mark.parametrize("synced", [{"preserve_mtime": False}], indirect=True)
def test_with_newer_dates_on_the_server(synced: Synced) -> None:
    """-u with `preserve_mtime: false`: sent once; a file that changes on the PC is sent again."""
    original = synced.on_pc("style.safetensors", seed=1)
    path = synced.server.loras / original.name
    assert synced.run("newer only") == [original.name]
    synced.daemon.wait_for_file(path, "file.compressed")
    assert synced.run("newer only") == []
    synced.on_pc("style.safetensors", seed=2)
    later = path.stat().st_mtime + 10
    os.utime(original, (later, later))
    assert synced.run("newer only") == [original.name]
    synced.daemon.wait_for_file(path, "file.compressed")
    synced.settled()
    assert synced.ends(path) == 2


@pytest.mark.slow
def test_what_brings_originals_back(synced: Synced) -> None:
    """As the table says: plain -a, --size-only, -c, and -u with dates that are kept."""
    original = synced.on_pc("style.safetensors", seed=1)
    path = synced.server.loras / original.name
    folders = f"{synced.pc}/", f"{synced.server.loras}/"
    synced.rsync("-a", *folders)
    synced.daemon.wait_for_file(path, "file.compressed")
    for wrong in ("-a", "-au", "-ac", "-a --size-only"):
        assert synced.rsync(*wrong.split(), "-n", *folders) == [original.name], wrong


@pytest.mark.slow
def test_the_third_return_is_left_alone(synced: Synced) -> None:
    """Plain -a from a timer: compressed twice, then `returned` with the remedy, and peace."""
    original = synced.on_pc("style.safetensors", seed=1)
    path = synced.server.loras / original.name
    for event in ("file.compressed", "file.compressed", "file.kept"):
        assert synced.rsync("-a", f"{synced.pc}/", f"{synced.server.loras}/") == [original.name]
        line = synced.daemon.wait_for_file(path, event)
    assert line["reason"] == "returned"
    assert synced.rsync("-a", f"{synced.pc}/", f"{synced.server.loras}/") == []
    assert Seen.of(path).sha256 == Seen.of(original).sha256


def test_the_patterns_are_those_of_the_temporaries() -> None:
    """.stignore, --exclude and robocopy's /XF name what lensd writes beside a file, and no LoRA."""
    name = temporary_name("0123456789abcdef")
    [stignore] = re.findall(r"```stignore\n(.*?)```", PAGE, re.DOTALL)
    patterns = [line for line in stignore.splitlines() if line and not line.startswith("//")]
    patterns += re.findall(r"--exclude='([^']+)'", PAGE) + re.findall(r"/XF (\S+)", PAGE)
    assert len(patterns) == 3
    for pattern in patterns:
        assert fnmatch.fnmatchcase(name, pattern), pattern
        assert not fnmatch.fnmatchcase("style.safetensors", pattern), pattern


def test_every_recipe_is_run() -> None:
    """None was added without a test."""
    assert {"to the server", "from the server", "newer only"} == set(RECIPES)
