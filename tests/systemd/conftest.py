"""A machine with lensd as its service, booted once for a module."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.docs import markdown
from tests.support.booted import REPOSITORY, Booted
from tests.support.limits import PATIENCE
from tests.support.realistic import small_lora
from tests.support.running import ENDS, Line, parse_line, whole_lines

DROP_INS = "/etc/systemd/system/lensd.service.d"
CONFIG = "/etc/lensd/config.yaml"
LOG = "/var/log/lensd/lensd.log"
DISK = "/srv/disk-1"  # a name that systemd has to escape
OTHER = "/srv/disk 2"
OCTAL_SPACE = "\\040"  # in /etc/fstab
MODES = ("rank", "int8", "ultra")  # each has a folder
NAMES = ("loras", "lora-archive", *MODES)
# Settings for the tests: this tree's package, and short times.
TESTS = f"""[Service]
Environment=PYTHONPATH={REPOSITORY}
RestartSec=1
WatchdogSec=10
"""


def installing() -> list[str]:
    """Return the commands of docs/operations.md that install the service, without sudo."""
    page = (REPOSITORY / "docs/operations.md").read_text(encoding="utf-8")
    block = markdown.blocks(markdown.section(page, "As a service, in five lines"))[0]
    lines = block.text.splitlines()
    assert len(lines) == 5
    return [line.removeprefix("$ ").replace("sudo ", "") for line in lines]


class Service:
    """lensd as a service of a booted machine, with two disks."""

    def __init__(self, machine: Booted, folder: Path) -> None:
        self.machine = machine
        self._folder = folder
        self._read = 0
        self.lines: list[Line] = []

    def install(self) -> None:
        """Run the commands of docs/operations.md except pip, with the lensd of this tree."""
        machine = self.machine
        program = machine.path("/opt/lensd/bin/lensd")
        program.parent.mkdir(parents=True)
        program.write_text(f'#!/bin/sh\nexec {shlex.join(self.command())} "$@"\n')
        program.chmod(0o755)
        pip, *lines, start = installing()
        assert "pip install" in pip
        machine.shell(pip.rpartition(" && ")[2])  # the link
        for line in lines:
            machine.shell(f"cd '{REPOSITORY}'; {line}")
        self._make_disks()
        self.configure()
        machine.shell(f"mkdir -p {DROP_INS}")
        machine.path(f"{DROP_INS}/zz-tests.conf").write_text(TESTS)
        machine.shell(start)

    def _make_disks(self) -> None:
        machine = self.machine
        for disk in (DISK, OTHER):
            with machine.path("/etc/fstab").open("a") as fstab:
                fstab.write(f"tmpfs {disk.replace(' ', OCTAL_SPACE)} tmpfs defaults 0 0\n")
            machine.shell(f"mkdir -p '{disk}' && mount '{disk}'")
        self.make_folders()

    def configure(self, **parts: Any) -> None:
        """Write the configuration again."""
        document = {
            "watch": [
                {"path": f"{DISK}/loras"},
                *({"path": f"{DISK}/{mode}", "mode": mode} for mode in MODES),
                {"path": f"{OTHER}/loras2"},
            ],
            "archive": {"path": f"{DISK}/lora-archive"},
            "settle": {"quiet_seconds": 0.3, "unproven_seconds": 1.2, "rescan_seconds": 1},
            "worker": {"device": "cpu"},
            "log": {"path": LOG},
            **parts,
        }
        self.machine.path(CONFIG).write_text(json.dumps(document))

    def command(self, *arguments: str) -> Sequence[str]:
        """Return the command that runs `lensd` on that machine."""
        return ("env", f"PYTHONPATH={REPOSITORY}", sys.executable, "-m", "lensd", *arguments)

    def lensd(self, *arguments: str) -> str:
        """Run `lensd` there as root, and return its output."""
        return self.machine.run(*self.command(*arguments)).stdout

    def unmount(self, disk: str) -> None:
        """Unmount a disk as soon as lensd has nothing open there: it looks at it each second."""
        self.machine.shell(
            f"for turn in {{1..1000}}; do umount '{disk}' && exit; sleep 0.02; done; exit 1"
        )

    def make_folders(self) -> None:
        """Create the folders on the disks."""
        for folder in (*(f"{DISK}/{name}" for name in NAMES), f"{OTHER}/loras2"):
            self.machine.shell(f"install -d -o lensd -g lensd '{folder}'")

    def use_drop_in(self) -> None:
        """Install the output of `lensd service` as the drop-in, and reload systemd."""
        text = self.lensd("service", "-c", CONFIG)
        self.machine.path(f"{DROP_INS}/lensd.conf").write_text(text)
        self.machine.shell("systemctl daemon-reload")

    def under_the_unit(self, code: str, names: Sequence[str]) -> str:
        """Run a Python program with these settings of the unit, and return its output."""
        wanted = [f"{name}=" for name in names]
        lines = (REPOSITORY / "systemd/lensd.service").read_text().splitlines()
        settings = [line for line in lines if line.startswith(tuple(wanted))]
        assert len(settings) == len(names)
        command = ["systemd-run", "--wait", "--pipe", "--quiet", "--collect", "-p", "User=lensd"]
        command += [word for setting in settings for word in ("-p", setting)]
        return self.machine.run(*command, sys.executable, "-c", code).stdout

    def worker(self) -> int:
        """Return the worker's process number on the machine; start a worker if none runs."""
        pid = self.machine.show("lensd", "MainPID")
        children = self.machine.shell(f"cat /proc/{pid}/task/*/children").split()
        if children:
            return int(children[0])
        self.wait_for_file(self.drop(f"{DISK}/loras/first.safetensors", 90))
        return self.worker()

    def drop(
        self, target: str, seed: int, *, owner: tuple[int, int] | None = None, **of_file: Any
    ) -> str:
        """Move a small LoRA to `target`; it belongs to the service's user, or to `owner`.

        `owner`: uid and gid.
        """
        made = small_lora(self._folder / f"{seed}.safetensors", seed=seed, **of_file).path
        aside = self.machine.path(f"{os.path.dirname(os.path.dirname(target))}/.{seed}")
        shutil.copyfile(made, aside)
        user, group = map(int, self.machine.shell("id -u lensd && id -g lensd").split())
        os.chown(aside, *(owner or (user, group)))
        aside.chmod(0o644)
        aside.rename(self.machine.path(target))
        return target

    def wait_for(
        self, wanted: Callable[[Line], bool], what: str, seconds: float = PATIENCE
    ) -> Line:
        """Wait for the next line of the log for which `wanted` returns True, and return it."""
        deadline = time.monotonic() + seconds
        while True:
            for line in self._fresh():
                self.lines.append(line)
                self._read += 1
                if wanted(line):
                    return line
            if time.monotonic() > deadline:
                journal = self.machine.run(
                    "journalctl", "-b", "-u", "lensd", "-n", "40", check=False
                ).stdout
                said = "\n".join(map(json.dumps, self.lines[-20:]))
                raise AssertionError(f"no {what} within {seconds:g} s\n{said}\n{journal}")
            time.sleep(0.05)

    def wait_for_event(self, event: str, seconds: float = PATIENCE) -> Line:
        return self.wait_for(lambda line: line["event"] == event, event, seconds)

    def wait_for_file(self, path: str, seconds: float = PATIENCE) -> Line:
        """Wait for the outcome of a file, and return its line."""
        return self.wait_for(
            lambda line: line["event"] in ENDS and line["path"] == path, f"end of {path}", seconds
        )

    def _fresh(self) -> list[Line]:
        log = self.machine.path(LOG)
        text = log.read_text() if log.exists() else ""
        return [parse_line(line) for line in whole_lines(text)[self._read :]]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service, installed and started; it is stopped at the end."""
    folder = tmp_path_factory.mktemp("machine")
    with Booted(folder) as machine:
        found = Service(machine, folder)
        found.install()
        found.wait_for_event("daemon.ready")
        yield found
        machine.shell("systemctl stop lensd")
        assert machine.show("lensd", "Result") == "success"
