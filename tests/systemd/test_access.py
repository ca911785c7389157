"""What another process may write, asked of the kernel."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lensd.systemd.access import NotAllowed, Process, denials
from tests.support.home_server import wait_until
from tests.support.marks import needs_program, needs_root

NOBODY = 65534
pytestmark = [needs_root, needs_program("unshare"), needs_program("setpriv")]
Start = Callable[[str], Process]


@pytest.fixture
def start() -> Iterator[Start]:
    """A process with mounts of its own, made by a script that ends in `exec ... sleep`."""
    children = []

    def started(script: str) -> Process:
        command = ["unshare", "--mount", "sh", "-euc", script]
        child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        children.append(child)
        comm = Path(f"/proc/{child.pid}/comm")
        wait_until(lambda: comm.read_text() == "sleep\n", "the script is at its end")
        return Process.of(child.pid)

    yield started
    for child in children:
        child.kill()
        child.communicate()


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """One that everybody can reach and write."""
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == os.geteuid() and parent.name.startswith(
            ("pytest-", "popen-", "test_")
        ):
            parent.chmod(0o755)
    found = tmp_path / "folder"
    found.mkdir()
    found.chmod(0o777)
    return str(found)


def test_nothing_is_denied_to_who_may_all(start: Start, folder: str) -> None:
    """The same mounts, another user: the folder takes files, and so does a file in it."""
    file = Path(folder, "file")
    file.touch()
    file.chmod(0o666)
    nobody = start(f"exec setpriv --reuid={NOBODY} --clear-groups sleep 60")
    assert (nobody.user, nobody.overrides) == (NOBODY, False)
    assert denials(nobody, [folder, str(file)]) == {}


def test_a_mount_that_is_read_only_there_and_not_here(start: Start, folder: str) -> None:
    """As a unit without an entry for it; for root too, whose rights do not help."""
    bind = f"mount --bind '{folder}' '{folder}'; mount -o remount,bind,ro '{folder}'"
    for rest in ("exec sleep 60", f"exec setpriv --reuid={NOBODY} --clear-groups sleep 60"):
        assert denials(start(f"{bind}; {rest}"), [folder]) == {folder: "read_only"}


def test_a_folder_that_is_hidden_there(start: Start, folder: str) -> None:
    """As ProtectHome= hides homes; for root it is not there, for others it is behind a door."""
    inside = f"{folder}/inside"
    os.mkdir(inside)
    os.chmod(inside, 0o777)  # noqa: S103 - everybody may write it, here
    hide = f"mount -t tmpfs -o mode=0000 tmpfs '{folder}'"
    for rest in ("exec sleep 60", f"exec setpriv --reuid={NOBODY} --clear-groups sleep 60"):
        assert denials(start(f"{hide}; {rest}"), [inside]) == {inside: "missing"}


def test_a_right_that_is_missing(start: Start, folder: str) -> None:
    """Mode, and a group that only one of two processes has."""
    os.chown(folder, 0, 4321)
    os.chmod(folder, 0o770)  # noqa: S103 - its group may write it
    alone = start(f"exec setpriv --reuid={NOBODY} --clear-groups sleep 60")
    member = start(f"exec setpriv --reuid={NOBODY} --groups=4321 sleep 60")
    assert denials(alone, [folder]) == {folder: "rights"}
    assert denials(member, [folder]) == {}


def test_only_its_user_and_root_may_ask(start: Start, folder: str) -> None:
    """Another user is told so, instead of a guess."""
    process = start("exec sleep 60")
    os.seteuid(NOBODY)
    try:
        with pytest.raises(NotAllowed):
            denials(process, [folder])
    finally:
        os.seteuid(0)


def test_a_process_that_is_gone() -> None:
    """An error of its own."""
    child = subprocess.Popen(["true"])
    child.wait()
    with pytest.raises(ProcessLookupError):
        Process.of(child.pid)
