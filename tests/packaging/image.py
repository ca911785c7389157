"""A Dockerfile's steps on throw-away roots, and its container.

Each stage is an overlay over this machine's root, so what it writes is lost with the test. What an
engine gives a container is given by util-linux: another root, read-only but for its volumes,
process numbers and a network of its own, and a user without capabilities.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import string
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import pytest

from tests.packaging.building import REPOSITORY
from tests.packaging.dockerfile import Instruction, value
from tests.support.booted import not_in_overlay
from tests.support.limits import PATIENCE
from tests.support.running import whole_lines

PROGRAMS = ("unshare", "nsenter", "setpriv", "chroot", "useradd")
needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, PROGRAMS)),
    reason=f"needs root and {', '.join(PROGRAMS)}",
)
WAIT_SECONDS = 60.0

# $1: an empty folder, for what the stages write.
HOLD = 'mount --make-rprivate / && mount -t tmpfs tmpfs "$1" && echo ready && exec sleep infinity'
# $1: the stage, $2: this Python, $3: the wheels; the others: what lies on other disks.
STAGE = """
stage=$1 python=$2 wheels=$3; shift 3
mkdir -p "$stage/upper" "$stage/work" "$stage/root"
mount -t overlay -o "lowerdir=/,upperdir=$stage/upper,workdir=$stage/work" overlay "$stage/root"
cd "$stage/root"
mount --rbind /dev dev
mount -t proc proc proc
chmod a+x root  # Python may lie below it
[ -e ".${python%/*}/python" ] || ln -s "$python" ".${python%/*}/python"  # Debian has python3 only
mkdir wheels
mount --bind "$wheels" wheels
for folder; do mkdir -p ".$folder"; mount --bind "$folder" ".$folder"; done
"""
# $1: the root, $2: the user; the others: a command.
CONTAINER = """
root=$1 user=$2; shift 2
mount -t proc proc "$root/proc"
mount -o remount,ro,bind "$root"
exec chroot "$root" setpriv --reuid "$user" --regid "$user" --clear-groups --no-new-privs \
    --bounding-set -all --inh-caps -all "$@"
"""


class Image:
    """The stages of a Dockerfile, and then its container."""

    def __init__(self, folder: Path, wheelhouse: Path) -> None:
        self._top = folder / "stages"
        self._top.mkdir()
        self._log = folder / "container.log"
        self._wheelhouse = wheelhouse
        self._container: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--net"]
        command += ["sh", "-c", HOLD, "sh", str(self._top)]
        self._holder = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        if self._container is not None:
            self._container.kill()
            self._container.wait()
        self._holder.kill()
        self._holder.wait()
        if self._holder.stdout:
            self._holder.stdout.close()

    def build(self, name: str, stage: list[Instruction]) -> None:
        """Take the steps of a stage. Those behind it may copy from it; the last is the image."""
        python = os.path.realpath(sys.executable)
        outside = [str(path) for path in not_in_overlay()]
        self._shell(STAGE, str(self._top / name), python, str(self._wheelhouse), *outside)
        self._root, self._stage = self._top / name / "root", stage
        self._environment = {
            "PATH": f"{os.path.dirname(python)}:/usr/sbin:/usr/bin:/sbin:/bin",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": "/wheels",
        }
        for instruction in stage:
            if instruction.word == "RUN":
                self._shell('exec chroot "$1" sh -ec "$2"', str(self._root), instruction.text)
            elif instruction.word == "COPY":
                self._copy(instruction.words)
            elif instruction.word in ("ENV", "ARG"):
                self._set(instruction.text)

    def _copy(self, words: list[str]) -> None:
        """As Docker does: of a folder its content, into the folder that is named."""
        source = REPOSITORY
        if words[0].startswith("--from="):
            source = self._top / words.pop(0).removeprefix("--from=") / "root"
        *names, into = words
        for name in names:
            path = f"{source}/{name.strip('/')}"
            script = 'mkdir -p "$2"; [ ! -d "$1" ] || set -- "$1/." "$2"; cp -a "$1" "$2"'
            self._shell(script, path, f"{self._root}{into}")

    def _set(self, text: str) -> None:
        for assignment in shlex.split(text):
            name, _, content = assignment.partition("=")
            self._environment[name] = string.Template(content).substitute(self._environment)

    def write(self, path: str, text: str) -> None:
        """A file of the image, as an engine binds one in."""
        self._shell('printf %s "$2" > "$1"', f"{self._root}{path}", text)

    def start(self, volumes: Mapping[str, Path]) -> None:
        """Run entry point and command, with folders for some volumes; the others start empty."""
        for path in value(self._stage, "VOLUME").words:
            inside = f"{self._root}{path}"
            self._shell('mount --bind "$1" "$2"', str(volumes.get(path, inside)), inside)
        self._user = value(self._stage, "USER").text
        command = value(self._stage, "ENTRYPOINT").words + value(self._stage, "CMD").words
        fresh = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", CONTAINER)
        with self._log.open("wb") as log:
            self._container = subprocess.Popen(
                [*self._within(), *fresh, "sh", str(self._root), self._user, *command],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
            )

    def next_event(self, event: str) -> dict[str, Any]:
        """The first line of the log with this event, once it is there."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            lines = [json.loads(line) for line in whole_lines(self._log.read_text())]
            found = [line for line in lines if line["event"] == event]
            if found:
                return dict(found[0])
            time.sleep(0.1)
        raise AssertionError(f"no {event} in {self._log.read_text()}")

    def execute(self, *command: str) -> str:
        """What `docker exec` does: a command in the container, as its user. Its output."""
        enter = ["nsenter", "-t", str(self._first()), "-m", "-n", "-p", "-r", "-w", "setpriv"]
        enter += ["--reuid", self._user, "--regid", self._user, "--clear-groups"]
        return self._checked([*enter, *command])

    def stop(self) -> int:
        """SIGTERM to process 1, as the image says; its exit status."""
        assert self._container is not None
        os.kill(self._first(), signal.Signals[value(self._stage, "STOPSIGNAL").text])
        return self._container.wait(WAIT_SECONDS)

    def _first(self) -> int:
        """Process 1 of the container, as this process counts."""
        assert self._container is not None
        outer = self._container.pid
        return int(Path(f"/proc/{outer}/task/{outer}/children").read_text().split()[0])

    def _within(self) -> list[str]:
        return ["nsenter", "-t", str(self._holder.pid), "-m", "-n"]

    def _shell(self, script: str, *arguments: str) -> str:
        return self._checked([*self._within(), "sh", "-ec", script, "sh", *arguments])

    def _checked(self, command: list[str]) -> str:
        done = subprocess.run(
            command,
            env=getattr(self, "_environment", None),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout
