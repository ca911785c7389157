"""The ledger is lost, and the start that rebuilds it is killed: the next start has all of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from lensd.store.fs import temporary_name
from tests.faults import one_job
from tests.faults.conftest import MakeStage
from tests.faults.scene import NAME, Scene, require, sha
from tests.faults.test_killed import moment
from tests.support import strace
from tests.support.marks import needs_program
from tests.support.strace import Call
from tests.support.suites import sample

pytestmark = [pytest.mark.slow, pytest.mark.fault("ledger"), needs_program("strace")]


def _lose(scene: Scene) -> None:
    """An output with an older original, an original whose output was deleted, a file that lensd
    left alone, and a temporary that is the archived original; no ledger.
    """
    scene.fresh()
    scene.run()
    archived = scene.archive / "loras"
    (archived / "gone.safetensors").write_bytes(scene.prepared.newer)
    (scene.top / "loras/alone.safetensors").write_bytes(scene.prepared.newer)
    os.link(archived / NAME, scene.path.with_name(temporary_name("lost")))
    for path in (scene.top / "state").iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _rows(scene: Scene) -> list[tuple[Any, ...]]:
    names = ("path", "outcome", "sha256_in", "bytes_in", "bytes_out", "archive_path", "staged")
    return sorted((tuple(row[name] for name in names) for row in scene.rows()), key=str)


def _all_is_there(scene: Scene) -> None:
    """On the disk, at any moment."""
    original, older = scene.prepared.original, scene.prepared.newer
    require(scene.path.read_bytes() == scene.prepared.output(original), "the output changed")
    expected = {
        f"loras/{NAME}": original,
        "loras/gone.safetensors": older,
        f".versions/{sha(older)}/loras/{NAME}": older,
    }
    require(scene.files("") == expected, "the archive changed")
    alone = scene.top / "loras/alone.safetensors"
    require(alone.read_bytes() == older, "the file that was left alone changed")


def _rebuild_calls(scene: Scene) -> tuple[list[Call], list[tuple[Any, ...]]]:
    """Those of a whole start up to its first look for new files, and the rows after it."""
    _lose(scene)
    ran = scene.run(traced=strace.CHANGING)
    require(ran.code == 0, ran.errors)
    require(ran.count("daemon.rebuilt") == 1, "nothing was rebuilt")
    calls = scene.calls()
    return calls[: moment(calls, one_job.RECOVERED) + 1], _rows(scene)


def test_killed_at_each_call_of_a_rebuild(stage: MakeStage, tell: Callable[[str], None]) -> None:
    """The next start has the same rows as one that was never killed, none of them twice."""
    play = stage(story="older")
    calls, rows = _rebuild_calls(play.scenes[0])
    require(len(rows) == 4, str(rows))
    cases = sample(calls, 12)

    def killed(scene: Scene, call: Call) -> None:
        _lose(scene)
        staged = os.stat(scene.path).st_ino
        scene.kill(call)
        _all_is_there(scene)
        second = scene.run()
        require(second.code == 0, f"the next start ended with {second.code}: {second.errors}")
        _all_is_there(scene)
        scene.nothing_left()
        require(not second.count("file.compressed"), "an output was compressed again")
        found = _rows(scene)
        same = [row[:5] for row in found] == [row[:5] for row in rows]
        require(same, f"other rows: {found}")
        [output] = [row for row in found if row[1] == "compressed" and row[6] is not None]
        require(f" {staged}," in output[6], "the row has another output")

    play.play(cases, killed)
    tell(f"a rebuild killed at {len(cases)} of its {len(calls)} calls")
