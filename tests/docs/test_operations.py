"""What somebody copies from docs/operations.md does what the page says.

The page's /srv is a folder of the test's here. The service and the container have tests of their
own (tests/packaging), on roots where /srv is /srv.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.docs import shell
from tests.support import aging
from tests.support.home_server import Seen
from tests.support.realistic import small_lora

PAGE = "docs/operations.md"
CONFIG = """
watch: [{path: srv/loras}]
archive: {path: srv/lora-archive, keep_days: 90}
state: {path: state}
log: {path: lensd.log}
settle: {quiet_seconds: 0.3}
"""

pytestmark = pytest.mark.slow


class Server:
    """A home server whose `style.safetensors` came twice, each time another file."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.loras, self.state = top / "srv/loras", top / "state"
        self.lora = self.loras / "style.safetensors"
        self.archived = top / "srv/lora-archive/loras/style.safetensors"
        for folder in (self.loras, top / "srv/lora-archive"):
            folder.mkdir(parents=True)
        (top / "config.yaml").write_text(CONFIG)
        self.originals = [self._arrive(seed) for seed in (1, 2)]

    def _arrive(self, seed: int) -> Seen:
        small_lora(self.top / "new.safetensors", seed=seed).path.rename(self.lora)
        seen = Seen.of(self.lora)
        shell.output("lensd once --yes", self.top)
        assert Seen.of(self.lora).size < seen.size
        return seen

    def follow(self, script: str) -> str:
        """Run a block of the page; what it prints."""
        return shell.output(script.replace("/srv/", f"{self.top}/srv/"), self.top)


@pytest.fixture
def server(tmp_path: Path) -> Server:
    """In folders of its own."""
    return Server(tmp_path)


def test_originals_come_back(server: Server) -> None:
    """The list names the file; the newest original is back, bit for bit."""
    listing, newest = shell.scripts(PAGE, "Getting originals back")[0].splitlines()
    assert "style.safetensors" in server.follow(listing)
    server.follow(newest)
    assert Seen.of(server.lora)._replace(inode=0) == server.originals[1]._replace(inode=0)


def test_an_older_original_comes_back(server: Server) -> None:
    """By the start of its sha256, which the page makes up."""
    older = shell.scripts(PAGE, "Getting originals back")[1]
    assert "3f2a" in older
    server.follow(older.replace("3f2a", server.originals[0].sha256[:12]))
    assert Seen.of(server.lora).sha256 == server.originals[0].sha256


@pytest.mark.parametrize(
    ("heading", "block"),
    [("Getting originals back", 2), ("Uninstalling, with all originals back", 2)],
)
def test_by_hand_without_lensd(server: Server, heading: str, block: int) -> None:
    """`cp -a`: bytes, mode, owner and date of the newest original."""
    server.follow(shell.scripts(PAGE, heading)[block])
    assert Seen.of(server.lora)._replace(inode=0) == server.originals[1]._replace(inode=0)


def test_checking(server: Server) -> None:
    """Both lines: everything, and one file as JSON."""
    every, one = shell.scripts(PAGE, "Checking that all is well")[0].splitlines()
    assert "ok          output" in server.follow(every)
    assert json.loads(server.follow(one))


def test_shell_completion(tmp_path: Path, home: Path) -> None:
    """The script lies where bash looks, and bash can read it."""
    shell.output(shell.scripts(PAGE, "Shell completion and man page")[0], tmp_path)
    script = home / ".local/share/bash-completion/completions/lensd"
    assert "lensd" in script.read_text()
    shell.output(f"bash -n {script}", tmp_path)


def test_deleting_old_originals(server: Server) -> None:
    """The dry run tells of the two that are older than `keep_days`, and the other deletes them."""
    aging.age(server, server.lora, days=91)
    dry, real = shell.scripts(PAGE, "Deleting old originals")[0].splitlines()
    assert "2 originals would be deleted" in server.follow(dry)
    assert server.archived.exists()
    assert "2 originals deleted" in server.follow(real)
    assert not server.archived.exists()
