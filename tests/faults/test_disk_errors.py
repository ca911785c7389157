"""ENOSPC and EIO at each call of a commit: lensd goes on, no byte is lost, a retry finishes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.faults import one_job
from tests.faults.conftest import MakeStage
from tests.faults.scene import Missed, Ran, Scene, require
from tests.faults.test_killed import commit_calls
from tests.support import strace
from tests.support.marks import needs_program
from tests.support.strace import Call
from tests.support.suites import sample

pytestmark = [pytest.mark.slow, needs_program("strace")]

SCENES: dict[str, dict[str, Any]] = {
    "archive on the same disk": {},
    "archive elsewhere": {"elsewhere": True},
    "no lease": {"refuse": ["lease"]},
    "no exchange": {"refuse": ["exchange"]},
}
# Calls that a full disk can refuse.
GROWING = frozenset(
    [
        "openat", "mkdirat", "renameat2", "linkat", "write", "pwrite64", "fsync", "fdatasync",
        "ftruncate", "fsetxattr", "ioctl",
    ]
)  # fmt: skip
FEW = 12


def fails_at_each_call(play_in: MakeStage, kind: str, error: str, names: frozenset[str]) -> str:
    """One call of a run fails; the run ends, and the next start finishes what it did not."""
    play = play_in(**SCENES[kind])
    calls = [c for c in commit_calls(play.scenes[0], names) if not is_said(c)]
    cases = sample(calls, FEW)

    def act(scene: Scene, call: Call) -> None:
        first = scene.run(strace.failing_at(call, error))
        came = strace.times_called(scene.trace, call.name)
        if came < call.number:
            raise Missed(f"it never came: {first}")
        scene.holds_whole()
        has_ended_well(scene, first, error)
        second = scene.run(retry=True)
        require(second.code == 0, f"the next start ended with {second.code}: {second.errors}")
        scene.is_finished(first, second, failed=True)

    play.play(cases, act)
    return f"{kind}: {error} at {len(cases)} of the {len(calls)} calls of a commit"


def is_said(call: Call) -> bool:
    """The log, of which the test lives, and what lensd says: to pipes, of which no disk tells."""
    said = call.name == "write" and '"{\\"' in call.text
    return said or ".log" in call.text or "/lensd-test-" in call.text


def has_ended_well(scene: Scene, ran: Ran, error: str) -> None:
    """The file's own end, or, where the ledger could not be written, that of the process."""
    require(ran.code in (0, one_job.STORAGE), f"a bug: {ran.code} {ran.errors[-300:]}")
    require(not list(scene.top.glob("state/*damaged*")), "the ledger was taken for a damaged one")
    reasons = {line.get("reason") for line in ran.lines if line["event"] == "file.failed"}
    allowed = {"no_space"} if error == "ENOSPC" else {"io_error"}
    require(reasons <= allowed, f"it failed as {reasons}")
    if ran.code == 0:
        states = [row["state"] for row in scene.rows()]
        require("published" in states or not scene.temporaries(), "a temporary is left")


@pytest.mark.fault("disk full")
@pytest.mark.parametrize("kind", SCENES)
def test_the_disk_is_full(stage: MakeStage, tell: Callable[[str], None], kind: str) -> None:
    tell(fails_at_each_call(stage, kind, "ENOSPC", GROWING))


@pytest.mark.fault("EIO")
@pytest.mark.fault("archive elsewhere")
@pytest.mark.parametrize("kind", SCENES)
def test_the_disk_reports_errors(stage: MakeStage, tell: Callable[[str], None], kind: str) -> None:
    tell(fails_at_each_call(stage, kind, "EIO", strace.CHANGING | strace.READING))
