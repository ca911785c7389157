"""The machine's own systemd, booted as process 1 of fresh namespaces, over a throw-away root.

What is written there is lost with it, except in folders that are mounted from outside. The network
is a loopback of its own. /run and /tmp are empty at first.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import pytest

from tests.support.limits import PATIENCE

REPOSITORY = Path(__file__).resolve().parents[2]
SYSTEMD = Path("/lib/systemd/systemd")

# $1: an empty folder; the others: folders on other disks, or below a folder that is empty in there.
BOOT = """
set -eu
work=$1; shift
mount --make-rprivate /
mount -t tmpfs tmpfs "$work"
mkdir "$work/upper" "$work/work" "$work/root"
mount -t overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" overlay "$work/root"
root=$work/root
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
for folder; do mkdir -p "$root$folder"; mount --bind "$folder" "$root$folder"; done
ip link set lo up 2>/dev/null || true
cd "$root"
mkdir -p .old
pivot_root . .old
umount -l /.old
mount --make-rshared /  # systemd does it too, except in a container
export container=lensd-tests
exec /lib/systemd/systemd --system --unit=basic.target
"""
NAMESPACES = ("--pid", "--mount", "--uts", "--ipc", "--net", "--cgroup")

needs_systemd = pytest.mark.skipif(
    os.geteuid() != 0
    or not SYSTEMD.exists()
    or not all(map(shutil.which, ("unshare", "nsenter", "pivot_root", "setpriv", "systemctl"))),
    reason="needs root, systemd and util-linux",
)


class BootError(Exception):
    """systemd did not boot; the message is its output."""


class Booted:
    """A machine for the length of a `with` block. `folder` is an empty folder for it."""

    def __init__(self, folder: Path) -> None:
        self._work = folder / "boot"
        self._said = folder / "boot.log"
        self._work.mkdir()

    def __enter__(self) -> Self:
        kept = [str(path) for path in not_in_overlay()]
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", *NAMESPACES, "--fork"]
        command += ["--kill-child", "bash", "-c", BOOT, "boot", str(self._work), *kept]
        with self._said.open("wb") as said:
            self._outer = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=said
            )
        try:
            self._wait_for_boot()
        except BaseException:
            self._end()
            raise
        self._let_all_users_run_python()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def path(self, path: str) -> Path:
        """A path of the machine, as this process reaches it."""
        return Path(f"/proc/{self.pid}/root{path}")

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command on the machine, as root. Raises AssertionError with its output."""
        done = subprocess.run(
            ["nsenter", "-t", str(self.pid), "-a", *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=PATIENCE,
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def shell(self, script: str) -> str:
        """Run a script of bash, which must not fail; return its output."""
        return self.run("bash", "-euo", "pipefail", "-c", script).stdout

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", "-p", name, unit).stdout.strip()

    def _wait_for_boot(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self._outer.poll() is None:
            if self._has_booted():
                return
            time.sleep(0.1)
        raise BootError(self._said.read_text(errors="replace"))

    def _has_booted(self) -> bool:
        outer = self._outer.pid
        children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
        if not children:
            return False
        self.pid = int(children[0])
        if Path(f"/proc/{self.pid}/comm").read_text() != "systemd\n":
            return False
        state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        return state in ("running", "degraded")

    def _let_all_users_run_python(self) -> None:
        """A service's user must reach this Python, also when it is in the home of root."""
        outside = not_in_overlay()
        for path in (Path(sys.executable), Path(sys.base_prefix), REPOSITORY):
            for folder in path.parents:
                if not any(folder.is_relative_to(kept) for kept in outside):
                    self.run("chmod", "o+x", str(folder))

    def _end(self) -> None:
        self._outer.kill()  # with it process 1, and so all processes and mounts
        self._outer.wait()


def not_in_overlay() -> list[Path]:
    """The folders that Python needs and that are empty in the new root."""
    root = os.stat("/").st_dev
    wanted = {REPOSITORY, Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()}
    return sorted(
        path
        for path in wanted
        if path.stat().st_dev != root or path.is_relative_to("/tmp") or path.is_relative_to("/run")  # noqa: S108
    )
