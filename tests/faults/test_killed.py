"""The crash matrix: one commit, killed before and after each call that changes files.

Between two of those calls nothing changes on the disk, so that "after one" is "before the next".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from tests.faults import one_job
from tests.faults.scene import Scene, require
from tests.faults.stage import MakeStage, Stage
from tests.support import strace
from tests.support.marks import needs_program
from tests.support.strace import Call
from tests.support.suites import sample

pytestmark = [pytest.mark.slow, pytest.mark.fault("killed"), needs_program("strace")]

SCENES: dict[str, dict[str, Any]] = {
    "archive on the same disk": {},
    "archive elsewhere": {"elsewhere": True},
    "no lease": {"refuse": ["lease"]},
    "no lease, archive elsewhere": {"refuse": ["lease"], "elsewhere": True},
    "no lease, btrfs": {"refuse": ["lease"], "disk": "btrfs"},
    "no exchange": {"refuse": ["exchange"]},
    "no exchange, archive elsewhere": {"refuse": ["exchange"], "elsewhere": True},
    "an older original in the archive": {"story": "older"},
    "again from the archive": {"story": "redo"},
}
FEW = 8


def kinds(of: Iterable[str], few: int = 3) -> list[Any]:
    """As parameters of a test, marked with what they show."""
    elsewhere = pytest.mark.fault("archive elsewhere")
    chosen = sample(list(of), few)
    return [pytest.param(k, marks=elsewhere if "elsewhere" in k else (), id=k) for k in chosen]


def commit_calls(scene: Scene, names: frozenset[str] = strace.CHANGING) -> list[Call]:
    """Those of one whole run that nothing disturbs."""
    scene.fresh()
    ran = scene.run(traced=names)
    scene.is_finished(ran)
    return scene.calls(names)


@pytest.mark.parametrize("kind", kinds(SCENES))
def test_killed_at_each_call_of_a_commit(
    stage: MakeStage, tell: Callable[[str], None], kind: str
) -> None:
    """One plain start after it, and all is as if nothing had been."""
    play = stage(**SCENES[kind])
    calls = commit_calls(play.scenes[0])
    cases = sample(calls, FEW)

    def killed(scene: Scene, call: Call) -> None:
        first = scene.kill(call)
        scene.holds_whole()
        second = scene.run()
        require(second.code == 0, f"the next start ended with {second.code}: {second.errors}")
        scene.is_finished(first, second)

    play.play(cases, killed)
    tell(f"{kind}: killed at {len(cases)} of the {len(calls)} calls of a commit")


@pytest.mark.parametrize("kind", kinds(SCENES))
def test_killed_at_each_call_of_the_recovery(
    stage: MakeStage, tell: Callable[[str], None], kind: str
) -> None:
    """For each state that the first kill can leave; the start after the second finishes."""
    play = stage(**SCENES[kind])
    states = left_behind(play)
    pairs = [(first, second) for first in states for second in recovery_calls(play, first)]
    cases = sample(pairs, FEW)

    def killed_twice(scene: Scene, calls: tuple[Call, Call]) -> None:
        first = scene.kill(calls[0])
        second = scene.kill(calls[1])
        scene.holds_whole()
        third = scene.run()
        require(third.code == 0, f"the next start ended with {third.code}: {third.errors}")
        scene.is_finished(first, second, third)

    play.play(cases, killed_twice)
    tell(
        f"{kind}: killed at {len(cases)} of the {len(pairs)} calls of a recovery, "
        f"from {len(states)} states"
    )


@pytest.mark.parametrize("moment", ["half", "whole"])
def test_killed_while_the_worker_writes(stage: MakeStage, moment: str) -> None:
    """What the worker had written goes, also what it writes after that."""

    def killed(scene: Scene, kill: str) -> None:
        first = scene.run(kill=kill)
        require(first.code == -9, f"it was not killed but ended with {first.code}")
        require(scene.temporaries(), "the worker had written nothing")
        scene.holds_whole()
        second = scene.run()
        scene.is_finished(first, second)

    stage().play([moment], killed)


def left_behind(play: Stage) -> list[Call]:
    """One call for each different state that being killed there leaves behind."""
    states: dict[str, Call] = {}

    def look(scene: Scene, call: Call) -> None:
        scene.kill(call)
        states.setdefault(scene.state(), call)

    play.play(sample(commit_calls(play.scenes[0]), 2 * FEW), look)
    return sorted(states.values())


def recovery_calls(play: Stage, first: Call) -> list[Call]:
    """Those of the next start, from the open ledger to the first look for new files."""
    scene = play.scenes[0]
    scene.fresh()
    scene.kill(first)
    scene.run(traced=strace.CHANGING)
    calls = scene.calls()
    return calls[moment(calls, one_job.OPENED) + 1 : moment(calls, one_job.RECOVERED) + 1]


def moment(calls: list[Call], mark: str) -> int:
    return next(n for n, call in enumerate(calls) if mark in call.text)
