"""lensd.systemd.access: which paths another process may write."""

from __future__ import annotations

import os
import subprocess
import tempfile
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
    """Start a process with its own mounts, by a script that ends in `exec ... sleep`."""
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
def folder() -> Iterator[str]:
    """A folder that all users can reach and write to.

    pytest closes the folder above its temporary ones to other users whenever a run starts.
    """
    with tempfile.TemporaryDirectory() as above:
        Path(above).chmod(0o755)
        found = Path(above, "folder")
        found.mkdir()
        found.chmod(0o777)
        yield str(found)


def test_a_process_with_all_rights_is_denied_nothing(start: Start, folder: str) -> None:
    """It has the same mounts and another user, who may write to the folder and a file in it."""
    file = Path(folder, "file")
    file.touch()
    file.chmod(0o666)
    nobody = start(f"exec setpriv --reuid={NOBODY} --clear-groups sleep 60")
    assert (nobody.user, nobody.overrides) == (NOBODY, False)
    assert denials(nobody, [folder, str(file)]) == {}


def test_a_mount_that_is_read_only_only_for_the_process(start: Start, folder: str) -> None:
    """So it is in a unit that does not open the folder; rights of root do not help."""
    bind = f"mount --bind '{folder}' '{folder}'; mount -o remount,bind,ro '{folder}'"
    for rest in ("exec sleep 60", f"exec setpriv --reuid={NOBODY} --clear-groups sleep 60"):
        assert denials(start(f"{bind}; {rest}"), [folder]) == {folder: "read_only"}


def test_a_folder_that_is_hidden_from_the_process(start: Start, folder: str) -> None:
    """ProtectHome= hides homes so: root does not find it, other users may not enter."""
    inside = f"{folder}/inside"
    os.mkdir(inside)
    os.chmod(inside, 0o777)  # noqa: S103 - all users may write to it
    hide = f"mount -t tmpfs -o mode=0000 tmpfs '{folder}'"
    for rest in ("exec sleep 60", f"exec setpriv --reuid={NOBODY} --clear-groups sleep 60"):
        assert denials(start(f"{hide}; {rest}"), [inside]) == {inside: "missing"}


def test_a_missing_right(start: Start, folder: str) -> None:
    """The mode gives access to a group that only one of two processes has."""
    os.chown(folder, 0, 4321)
    os.chmod(folder, 0o770)  # noqa: S103 - its group may write to it
    alone = start(f"exec setpriv --reuid={NOBODY} --clear-groups sleep 60")
    member = start(f"exec setpriv --reuid={NOBODY} --groups=4321 sleep 60")
    assert denials(alone, [folder]) == {folder: "rights"}
    assert denials(member, [folder]) == {}


def test_only_its_user_and_root_may_ask(start: Start, folder: str) -> None:
    """For another user NotAllowed is raised."""
    process = start("exec sleep 60")
    os.seteuid(NOBODY)
    try:
        with pytest.raises(NotAllowed):
            denials(process, [folder])
    finally:
        os.seteuid(0)


def test_a_process_that_does_not_exist() -> None:
    """ProcessLookupError is raised."""
    child = subprocess.Popen(["true"])
    child.wait()
    with pytest.raises(ProcessLookupError):
        Process.of(child.pid)
