"""A service's whole life on a booted machine, by the lines of docs/operations.md alone.

Installed with all five lines, upgraded, uninstalled with every original back.
"""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs import shell
from tests.packaging.building import Built
from tests.support.booted import Booted, needs_systemd
from tests.support.home_server import Seen
from tests.support.limits import PATIENCE
from tests.support.realistic import small_lora

pytestmark = [pytest.mark.slow, needs_systemd]

PAGE = "docs/operations.md"
TREE = "/opt/lensd-clone"
WHEELS = "/opt/lent-wheels"
CONFIG = """
watch: [{path: /srv/loras}]
archive: {path: /srv/lora-archive}
log: {path: /var/log/lensd/lensd.log}
settle: {quiet_seconds: 0.3}
"""


class Machine:
    """A booted machine with the tree on it, and wheels that lend what is installed here."""

    def __init__(self, booted: Booted, built: Built, wheelhouse: Path) -> None:
        self._booted = booted
        self.lora = booted.path("/srv/loras/style.safetensors")
        with tarfile.open(built.sdist) as archive:
            archive.extractall(booted.path("/opt"), filter="data")
        booted.shell(f"mv /opt/{built.sdist.name.removesuffix('.tar.gz')} {TREE}")
        shutil.copytree(wheelhouse, booted.path(WHEELS))
        booted.shell("useradd --uid 10001 anna && install -d -o anna /srv/loras /srv/lora-archive")
        booted.shell("mkdir -p /etc/lensd")
        booted.path("/etc/lensd/config.yaml").write_text(CONFIG)

    def follow(self, heading: str) -> str:
        """Run the first block below a heading, as root; what it prints."""
        python = os.path.dirname(os.path.realpath(sys.executable))
        settings = (
            f"export PATH={python}:$PATH PIP_CONFIG_FILE=/dev/null PIP_NO_INDEX=1 "
            f"PIP_FIND_LINKS={WHEELS}; cd {TREE}\n"
        )
        done = self._booted.run(
            "bash", "-euc", settings + shell.scripts(PAGE, heading)[0], check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr + self._journal()
        return done.stdout

    def _journal(self) -> str:
        return self._booted.run("journalctl", "-b", "-u", "lensd", "-n", "40", check=False).stdout

    def drop(self) -> Seen:
        """A LoRA comes into the folder; wait until it is smaller, and return what it was."""
        made = small_lora(self.lora.with_name("style.part"), seed=1)
        os.chown(made.path, 10001, 10001)
        seen = Seen.of(made.path)
        made.path.rename(self.lora)
        deadline = time.monotonic() + PATIENCE
        while self.lora.stat().st_size == seen.size:
            assert time.monotonic() < deadline, self._journal()
            time.sleep(0.1)
        return seen


@pytest.fixture
def machine(built: Built, wheelhouse: Path, tmp_path: Path) -> Iterator[Machine]:
    """Booted, and nothing installed yet."""
    with Booted(tmp_path) as booted:
        yield Machine(booted, built, wheelhouse)


def test_installed_upgraded_uninstalled(machine: Machine) -> None:
    """The file is compressed; after an upgrade the service runs again; in the end it is back."""
    machine.follow("As a service, in five lines")
    original = machine.drop()
    said = machine.follow("Upgrading")
    assert "no faults" in said
    assert machine.follow("Uninstalling, with all originals back").strip() == ""
    assert Seen.of(machine.lora) == original
