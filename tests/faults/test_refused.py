"""A disk that is full, or fails, at any one call of a commit: lensd goes on, nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.faults.conftest import MakeStage
from tests.faults.scene import Scene, require
from tests.support import strace
from tests.support.marks import needs_program
from tests.support.strace import Call
from tests.support.suites import sample

pytestmark = [pytest.mark.slow, needs_program("strace")]

SCENES: dict[str, dict[str, Any]] = {
    "archive on the same disk": {},
    "archive elsewhere": {"elsewhere": True},
    "no lease, no exchange": {"refuse": ["lease", "exchange"]},
    "an older original in the archive": {"story": "older"},
}
# A full disk refuses what needs space, a broken one whatever it is asked for.
NEEDING_SPACE = frozenset(
    [
        "openat", "mkdir", "mkdirat", "renameat", "renameat2", "linkat", "pwrite64",
        "ftruncate", "fallocate", "fsync", "fdatasync", "fsetxattr", "ioctl",
    ]
)  # fmt: skip
FAILING = (strace.CHANGING | strace.READING) - {"fcntl", "write", "read"}  # pipes, log and leases
DONE, STORAGE = 0, 5


@pytest.mark.parametrize("kind", SCENES)
@pytest.mark.fault("disk full")
def test_no_space_at_each_call(stage: MakeStage, tell: Callable[[str], None], kind: str) -> None:
    """The original is untouched, or all is done; a retry with space finishes."""
    tell(f"{kind}: no space at {_each(stage, kind, 'ENOSPC', NEEDING_SPACE)}")


@pytest.mark.parametrize("kind", SCENES)
@pytest.mark.fault("EIO")
@pytest.mark.fault("archive elsewhere")
def test_an_io_error_at_each_call(stage: MakeStage, tell: Callable[[str], None], kind: str) -> None:
    """As above: reads, writes, flushes, links and renames that fail."""
    tell(f"{kind}: I/O error at {_each(stage, kind, 'EIO', FAILING)}")


def test_an_io_error_while_the_ledger_is_opened(
    stage: MakeStage, tell: Callable[[str], None]
) -> None:
    """It is no damaged ledger: it stays where it is, and the next start has it."""
    play = stage(story="older")
    scene = play.scenes[0]
    scene.fresh()
    scene.is_finished(scene.run(traced=FAILING))
    calls = scene.calls(FAILING)
    opened = next(n for n, call in enumerate(calls) if "lensd-test-ledger-is-open" in call.text)
    calls = [call for call in calls[:opened] if str(scene.log) not in call.text]
    cases = sample(calls, 10)

    def fail(scene: Scene, call: Call) -> None:
        first = scene.run(strace.failing_at(call, "EIO"))
        require(first.code in (DONE, STORAGE), f"it ended with {first.code}: {first.errors}")
        require(not list(scene.top.glob("state/*damaged*")), "the ledger was set aside")
        second = scene.run()
        require(second.code == DONE, f"the next start ended with {second.code}: {second.errors}")
        scene.is_published()

    play.play(cases, fail)
    tell(f"I/O error at {len(cases)} of the {len(calls)} calls that open the ledger")


def _each(stage: MakeStage, kind: str, error: str, names: frozenset[str]) -> str:
    play = stage(**SCENES[kind])
    calls = _calls(play.scenes[0], names)
    cases = sample(calls, 10)

    def fail(scene: Scene, call: Call) -> None:
        first = scene.run(strace.failing_at(call, error))
        require(first.code in (DONE, STORAGE), f"it ended with {first.code}: {first.errors}")
        bugs = [e["message"] for e in first.lines if e.get("reason") == "internal"]
        require(not bugs, f"told as a bug: {bugs}")
        scene.holds_whole()
        scene.retry = True
        second = scene.run()
        require(second.code == DONE, f"the retry ended with {second.code}: {second.errors}")
        scene.is_published()

    play.play(cases, fail)
    return f"{len(cases)} of the {len(calls)} calls"


def _calls(scene: Scene, names: frozenset[str]) -> list[Call]:
    """Those from the opened ledger on: before it, a start fails as any program's."""
    scene.fresh()
    scene.is_finished(scene.run(traced=names | {"openat"}))
    calls = scene.calls(names)
    begun = next(n for n, call in enumerate(calls) if "lensd-test-ledger-is-open" in call.text)
    return [call for call in calls[begun:] if "/lensd-test-" not in call.text]
