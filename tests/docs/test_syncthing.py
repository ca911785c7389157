"""docs/syncing.md on Syncthing: a PC, a server with lensd, and a real Syncthing on each."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lensd.store.fs import temporary_name
from tests.docs.rendering import REPOSITORY
from tests.support.home_server import HomeServer, Seen, wait_until
from tests.support.marks import needs_program
from tests.support.running import RunningDaemon
from tests.support.syncthing import Syncthing

PAGE = (REPOSITORY / "docs/syncing.md").read_text(encoding="utf-8")
[STIGNORE] = re.findall(r"```stignore\n(.*?)```", PAGE, re.DOTALL)
NAME = "style.safetensors"

pytestmark = [needs_program("syncthing"), pytest.mark.slow]


class Synced:
    """Both sides, connected; the daemon is ready."""

    def __init__(self, server: HomeServer, folder: Path, kinds: tuple[str, str]) -> None:
        self.server = server
        (server.loras / ".stignore").write_text(STIGNORE)
        folder.mkdir()
        self.on_pc, self.on_server = folder / NAME, server.loras / NAME
        self.pc = Syncthing(server.top / "home-of-pc", folder, kinds[0])
        self.nas = Syncthing(server.top / "home-of-nas", server.loras, kinds[1])
        self.daemon: RunningDaemon

    def put(self, seed: int) -> Seen:
        """A new version on the PC, sent and compressed."""
        made = self.server.make(NAME, seed=seed).path
        moment = time.time() + 10 * seed
        os.utime(made, (moment, moment))
        made.replace(self.on_pc)
        original = Seen.of(self.on_pc)
        self.pc.scan()
        self.daemon.wait_for_file(self.on_server, "file.compressed")
        return original

    def wait_for_output(self, output: Seen) -> None:
        """Until the PC has it."""
        self.nas.scan()
        wait_until(lambda: Seen.of(self.on_pc).sha256 == output.sha256, "the PC has the output")

    def rest(self) -> None:
        """Both look at their files until neither has anything to do, and once more."""
        for _ in range(2):
            wait_until(lambda: self._is_idle(self.nas) and self._is_idle(self.pc), "all is quiet")
            time.sleep(1)  # the other side may hear of it only now

    @staticmethod
    def _is_idle(side: Syncthing) -> bool:
        now = side.scan()
        return bool(now["state"] == "idle" and now["needFiles"] == 0)


@pytest.fixture
def synced(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Synced]:
    server = HomeServer(tmp_path)
    found = Synced(server, tmp_path / "pc", request.param)
    with ExitStack() as stack:
        for side in (found.pc, found.nas):
            stack.enter_context(side)
        found.pc.share_with(found.nas)
        found.nas.share_with(found.pc)
        found.daemon = stack.enter_context(server.daemon())
        found.daemon.wait_for_event("daemon.ready")
        yield found
        assert found.daemon.stop() == 0


@pytest.mark.parametrize("synced", [("sendonly", "receiveonly")], indirect=True)
def test_one_way_to_the_server(synced: Synced) -> None:
    """The output stays and is sent to nobody; the original on the PC stays; nothing is done twice.

    A newer version from the PC takes the name; the old output is kept beside it as a conflict, and
    lensd follows it there with its original.
    """
    original = synced.put(seed=1)
    output = Seen.of(synced.on_server)
    temporary = synced.server.loras / temporary_name("0123")
    temporary.write_text("under way")
    synced.rest()
    now = synced.nas.status()
    assert (now["receiveOnlyChangedFiles"], now["localFiles"]) == (1, 1)  # without the temporary
    assert (output, original) == (Seen.of(synced.on_server), Seen.of(synced.on_pc))
    assert synced.daemon.of(synced.on_server).count("file.compressed") == 1
    synced.put(seed=2)
    [conflict] = synced.server.loras.glob("style.sync-conflict-*.safetensors")
    assert Seen.of(conflict).sha256 == output.sha256
    assert Seen.of(synced.server.archived(conflict)).sha256 == original.sha256
    temporary.unlink()


@pytest.mark.parametrize("synced", [("sendreceive", "sendreceive")], indirect=True)
def test_both_ways(synced: Synced) -> None:
    """The output replaces the original on the PC, and comes to rest; so does a newer version."""
    for seed in (1, 2):
        original = synced.put(seed)
        output = Seen.of(synced.on_server)
        synced.wait_for_output(output)
        synced.rest()
        assert Seen.of(synced.on_pc).sha256 == output.sha256
        assert Seen.of(synced.on_server) == output
        assert Seen.of(synced.server.archived(synced.on_server)).sha256 == original.sha256
        assert synced.daemon.of(synced.on_server).count("file.compressed") == seed
    assert list(synced.server.loras.glob("*.sync-conflict-*")) == []
