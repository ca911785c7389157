"""The power goes at a call of a commit: what was not flushed is not there when it comes back.

State, originals and archive lie on ext4 in images. lensd is stopped after a call, and the images
are copied while they are mounted: what a filesystem holds back in memory is in no image, so that
the copy is the disk as it would be found. Nothing is written back early: the journal commits by
itself every 600 s, and `noauto_da_alloc` leaves a rename without its flush as it is.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.faults import one_job
from tests.faults.scene import Missed, Prepared, Ran, Scene, Violation, require, sha
from tests.faults.test_killed import commit_calls, moment
from tests.support import strace
from tests.support.disks import Mounts, make_ext4
from tests.support.marks import needs_program
from tests.support.strace import Call
from tests.support.suites import sample

pytestmark = [
    pytest.mark.slow,
    pytest.mark.fault("power cut"),
    needs_program("strace"),
    needs_program("mkfs.ext4"),
]

# Which folders are disks of their own, and what else is special. One disk's journal flushes all of
# it at once, so that a missing flush shows only beside another one's.
KINDS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "one disk": ((), {}),
    "the ledger elsewhere": (("state",), {}),
    "the ledger elsewhere, no lease": (("state",), {"refuse": ["lease"]}),
    "the ledger elsewhere, no exchange": (("state",), {"refuse": ["exchange"]}),
    "the ledger elsewhere, an older original": (("state",), {"story": "older"}),
    "all elsewhere": (("state", "archive"), {}),
}
OPTIONS = "noauto_da_alloc,commit=600"
FEW = 10


class Disks:
    """One ext4 at a fixed place, more for folders in it; their power can be cut."""

    def __init__(self, mounts: Mounts, folder: Path, inner: Sequence[str] = ()) -> None:
        self.folder = folder
        self._mounts = mounts
        images = mounts.tmpfs(folder.with_name("images"), "512m")
        self._images = {folder: images / "outer"}
        self._images |= {folder / name: images / name for name in inner}
        for image in self._images.values():
            make_ext4(image, "24M")
        self._mount()

    def cut(self) -> None:
        """What is on the disks now is all that is left."""
        copies = {image: image.with_suffix(".copy") for image in self._images.values()}
        for image, copy in copies.items():
            shutil.copyfile(image, copy)
        self._unmount()
        for image, copy in copies.items():
            copy.replace(image)
        self._mount()

    def settle(self) -> None:
        """All that was written until now is on the disks.

        Taking a mount away flushes it only if no other mount namespace has it too.
        """
        subprocess.run(["sync", "--file-system", *self._images], check=True)
        self._unmount()
        self._mount()

    def _mount(self) -> None:
        for folder, image in self._images.items():
            self._mounts.image(folder, image, OPTIONS)

    def _unmount(self) -> None:
        for folder in reversed(self._images):
            self._mounts.unmount(folder)


MakeDisks = Callable[[Sequence[str]], Disks]


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[MakeDisks]:
    with Mounts() as mounts:
        yield lambda inner: Disks(mounts, tmp_path / "disk", inner)


def test_what_was_not_flushed_is_gone(disks: MakeDisks) -> None:
    """The cut is one: of two files the flushed one is there, and of its bytes the flushed ones."""
    disk = disks(())
    with (disk.folder / "flushed").open("wb") as file:
        file.write(b"flushed")
        file.flush()
        os.fsync(file.fileno())
        file.write(b", and more")
    (disk.folder / "not").write_bytes(b"not flushed")
    disk.cut()
    assert (disk.folder / "flushed").read_bytes() == b"flushed"
    assert not (disk.folder / "not").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_the_power_is_cut_at_each_call(
    disks: MakeDisks, prepared: Prepared, tell: Callable[[str], None], kind: str
) -> None:
    """The ledger says no more than the disk holds, and the next start finishes.

    So does the one after, when the power goes again just when that was done.
    """
    inner, of_scene = KINDS[kind]
    disk = disks(inner)
    scene = Scene(disk.folder, prepared, beside=disk.folder.parent / "beside", **of_scene)
    calls = commit_calls(scene)
    calls = calls[moment(calls, one_job.OPENED) :]
    cases = sample(calls, FEW)
    wrong = [f"{call}: {found}" for call in cases if (found := cut_at(call, scene, disk))]
    scene.close()
    if wrong:
        raise Violation("\n".join([f"{len(wrong)} of {len(cases)} cases:", *wrong[:12]]))
    tell(f"{kind}: power cut after {len(cases)} of the {len(calls)} calls of a commit")


def cut_at(call: Call, scene: Scene, disk: Disks) -> str | None:
    """What was wrong then, if anything."""
    try:
        first = run_until(call, scene, disk)
        disk.cut()
        is_behind(scene)
        scene.holds_whole()
        second = scene.run()
        require(second.code == 0, f"the next start ended with {second.code}: {second.errors}")
        scene.is_finished(first, second)
        disk.cut()
        is_behind(scene)
        scene.holds_whole()
        third = scene.run()
        scene.is_finished(first, second, third)
    except Violation as violation:
        return str(violation)[:300]
    return None


def run_until(call: Call, scene: Scene, disk: Disks) -> Ran:
    """Run, and be killed after that call; without it to the end, if it does not come."""
    for _ in range(3):
        scene.fresh()
        disk.settle()
        with contextlib.suppress(Missed):
            return scene.run(strace.stopped_after(call), at_stop=lambda: None, then=signal.SIGKILL)
    scene.fresh()
    return scene.run()


def is_behind(scene: Scene) -> None:
    """What the ledger says is on the disk."""
    for row in scene.rows()[scene.jobs_before :]:
        state, outcome = row["state"], row["outcome"]
        if row["staged"] and state == "staged":
            temporary = scene.path.with_name(row["temporary"])
            require(
                temporary.exists() and sha(temporary.read_bytes()) == row["sha256_out"],
                "staged, and the output is not on the disk",
            )
        if state in ("publishing", "published") or outcome == "compressed":
            require(scene.prepared.original in scene.originals, f"{state}: nothing is archived")
        if state == "published" or outcome == "compressed":
            require(
                sha(scene.path.read_bytes()) == row["sha256_out"], f"{state}: no output is there"
            )
