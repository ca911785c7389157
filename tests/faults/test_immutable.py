"""`chattr +i` or `+a` on a file during its job: a reason, and no copy of it in the archive."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

from tests.faults.conftest import MakeStage
from tests.faults.scene import Scene, require
from tests.faults.test_killed import commit_calls
from tests.support import strace
from tests.support.marks import needs_program, needs_root
from tests.support.protected import protected
from tests.support.strace import Call
from tests.support.suites import sample

pytestmark = [
    pytest.mark.slow,
    pytest.mark.fault("immutable"),
    needs_root,
    needs_program("strace"),
    needs_program("chattr"),
]


@pytest.mark.parametrize("flag", ["i", "a"])
@pytest.mark.parametrize("elsewhere", [False, True], ids=["link", "copy"])
def test_made_immutable_after_a_call_of_the_commit(
    stage: MakeStage, tell: Callable[[str], None], flag: str, *, elsewhere: bool
) -> None:
    """The original stays and the archive has no copy, or it was published before that.

    The kernel does not let anybody unlink a link to such a file.
    """
    play = stage(elsewhere=elsewhere)
    calls = commit_calls(play.scenes[0])
    cases = sample(calls, 16)

    def act(scene: Scene, call: Call) -> None:
        with contextlib.ExitStack() as until_the_end:
            ran = scene.run(
                strace.stopped_after(call),
                at_stop=lambda: until_the_end.enter_context(protected(scene.path, flag)),
            )
            require(ran.code == 0, f"it ended with {ran.code}: {ran.errors}")
            scene.nothing_left()
            # Before that line the flag's new ctime makes the file wait, and no job begins.
            began = any(line["event"] == "file.settled" for line in ran.lines)
            if began and scene.path.read_bytes() == scene.prepared.original:
                reasons = [line.get("reason") for line in ran.lines if "reason" in line]
                require("immutable" in reasons, f"the reasons: {reasons}")
                if elsewhere:
                    require(not scene.files(""), f"a copy is left: {list(scene.files(''))}")
                    require(scene.rows()[-1]["archive_path"] is None, "the ledger counts a copy")
        scene.run()  # a link that the kernel did not let lensd unlink is the same file
        require(len(scene.originals) <= 1, "two originals")

    play.play(cases, act)
    tell(f"made +{flag} after {len(cases)} of the {len(calls)} calls of a commit")
