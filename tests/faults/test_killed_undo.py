"""Killed at each call of what takes a commit back or follows it: restore, redo, prune, ...

After the kill each byte string is under the name, in the archive or in `rescued/`. One plain start
later all is in order, `lensd verify` finds no fault, and a restored file is not compressed again.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from tests.faults.conftest import MakeStage
from tests.faults.scene import Ran, Scene, require, sha
from tests.faults.test_written_meanwhile import LATE, Writer, is_parting
from tests.support import strace
from tests.support.aging import age
from tests.support.marks import needs_program
from tests.support.strace import Call
from tests.support.suites import sample

pytestmark = [pytest.mark.slow, needs_program("strace")]
FEW = 12
OTHER = "paint.safetensors"


class Case(NamedTuple):
    """What is there before the traced process, how its scene is made, and what must be after it."""

    prepare: Callable[[Scene], None]
    holds: Callable[[Scene], None]
    of_scene: dict[str, Any]


def restore(scene: Scene, **options: Any) -> None:
    scene.run()
    scene.asks = {"verb": "restore", "paths": [str(scene.path)], **options}


def purge(scene: Scene) -> None:
    restore(scene, purge=True)


def without_output(scene: Scene) -> None:
    restore(scene)
    scene.path.unlink()


def redo(scene: Scene) -> None:
    scene.run()
    scene.redo = True


def compress_two(scene: Scene) -> Path:
    """Two files, whose originals are old; the path of the older one."""
    other = scene.path.with_name(OTHER)
    scene.run()
    os.rename(scene.path, other)
    scene.drop(scene.prepared.newer)
    scene.run()
    for days, path in ((40, scene.path), (50, other)):
        age(SimpleNamespace(loras=scene.top / "loras", state=scene.top / "state"), path, days)
    return other


def prune(scene: Scene) -> None:
    """Both originals are old enough."""
    compress_two(scene)
    scene.asks, scene.keep = {"verb": "prune"}, {"keep_days": 30}


def prune_deleted(scene: Scene) -> None:
    """The newer file was deleted by its owner."""
    compress_two(scene)
    scene.path.unlink()
    scene.asks = {"verb": "prune", "deleted": True}


def shrink(scene: Scene) -> None:
    """The archive may hold one of the two."""
    compress_two(scene)
    scene.asks, scene.keep = {"verb": "prune"}, {"max_size": len(scene.prepared.original)}


def find_deleted(scene: Scene) -> None:
    """The newer file was deleted, and the older one, known as deleted, is there again."""
    other, away = compress_two(scene), scene.top / "away"
    other.rename(away)
    scene.asks = {"verb": "look"}
    scene.run()
    require(len(gone(scene)) == 1, "the older file is not known as deleted")
    away.rename(other)
    scene.path.unlink()
    scene.asks = {"verb": "look"}


def rename_onto(scene: Scene) -> None:
    """The output takes the name of another output."""
    other = compress_two(scene)
    require(len(scene.originals) == 2, "two files were to be compressed")
    os.rename(scene.path, other)


def is_restored(scene: Scene) -> None:
    """It is back, or nothing was restored."""
    original, output = scene.whole
    now = scene.path.read_bytes() if scene.path.exists() else b""
    if now == original:
        require(scene.rows()[-1]["outcome"] == "restored", "not known as restored")
        is_on_same_disk = scene.archive.parent == scene.top
        require(not (is_on_same_disk and scene.originals), "moved, and the archive has it")
    else:
        require(now in (output, b""), f"neither old nor new: {len(now)} bytes")
        require([original] == scene.originals, "not restored, and the archive has no original")


def is_compressed(scene: Scene) -> None:
    original, output = scene.whole
    require(scene.path.read_bytes() == output, "the output is not there")
    require([original] == scene.originals, "the archive has not its original")


def is_pruned(scene: Scene) -> None:
    """One prune more, and the originals are gone, for the ledger too."""
    for path, original in both(scene):
        require(path.read_bytes() == scene.prepared.output(original), "the output is not there")
    scene.asks, scene.keep = {"verb": "prune"}, {"keep_days": 30}
    leaves(scene, [])


def leaves(scene: Scene, originals: list[bytes]) -> None:
    """The command once more, and the archive and the ledger have these originals alone."""
    ran = scene.run()
    require(ran.code == 0, f"the next prune ended with {ran.code}: {ran.errors}")
    require(originals == scene.originals, f"{len(scene.originals)} originals are left")
    known = [row["sha256_in"] for row in scene.rows() if row["archive_path"]]
    require(known == list(map(sha, originals)), "the ledger counts on others")


def is_pruned_of_deleted(scene: Scene) -> None:
    require(not scene.path.exists(), "the deleted file is back")
    scene.asks = {"verb": "prune", "deleted": True}
    leaves(scene, [scene.prepared.original])


def is_shrunk(scene: Scene) -> None:
    for path, original in both(scene):
        require(path.read_bytes() == scene.prepared.output(original), "the output is not there")
    scene.asks, scene.keep = {"verb": "prune"}, {"max_size": len(scene.prepared.original)}
    leaves(scene, [scene.prepared.newer])


def is_found(scene: Scene) -> None:
    """One look more, and the ledger names the deleted file alone; a further one has no news."""
    for _ in range(2):
        scene.asks = {"verb": "look"}
        ran = scene.run()
        require(ran.code == 0, f"the next look ended with {ran.code}: {ran.errors}")
    require(not ran.lines, f"a further look logs {ran.lines}")
    newer = [row["job_id"] for row in scene.rows() if row["sha256_in"] == sha(scene.prepared.newer)]
    require(gone(scene) == newer, f"the ledger names {gone(scene)}")


def gone(scene: Scene) -> list[str]:
    """The jobs of the files that the ledger knows as deleted."""
    with closing(sqlite3.connect(scene.top / "state/ledger.sqlite3")) as db:
        return [job_id for (job_id,) in db.execute("SELECT job_id FROM gone")]


def both(scene: Scene) -> list[tuple[Path, bytes]]:
    """Both files, and what was their original."""
    other = scene.path.with_name(OTHER)
    return [(scene.path, scene.prepared.newer), (other, scene.prepared.original)]


def has_followed(scene: Scene) -> None:
    newer, older = scene.prepared.newer, scene.prepared.original
    other = scene.path.with_name(OTHER)
    require(other.read_bytes() == scene.prepared.output(newer), "the output is not there")
    expected = {
        f"loras/styles/{OTHER}": newer,
        f".versions/{sha(older)}/loras/styles/{OTHER}": older,
    }
    require(expected == scene.files(""), f"the archive has {list(scene.files(''))}")


ELSEWHERE = {"elsewhere": True}
CASES = {
    "restore": Case(restore, is_restored, {}),
    "restore, archive elsewhere": Case(restore, is_restored, ELSEWHERE),
    "restore, no lease": Case(restore, is_restored, {"refuse": ["lease"]}),
    "restore, no exchange": Case(restore, is_restored, {"refuse": ["exchange"]}),
    "restore, output deleted": Case(without_output, is_restored, ELSEWHERE),
    "restore --purge": Case(purge, is_restored, {}),
    "restore --purge, archive elsewhere": Case(purge, is_restored, ELSEWHERE),
    "once --redo": Case(redo, is_compressed, {}),
    "once --redo, archive elsewhere": Case(redo, is_compressed, ELSEWHERE),
    "prune": Case(prune, is_pruned, {}),
    "prune, archive elsewhere": Case(prune, is_pruned, ELSEWHERE),
    "prune, no lease": Case(prune, is_pruned, {"refuse": ["lease"]}),
    "prune --deleted": Case(prune_deleted, is_pruned_of_deleted, {}),
    "prune, max_size": Case(shrink, is_shrunk, {}),
    "look for deleted files": Case(find_deleted, is_found, {}),
    "renamed onto another output": Case(rename_onto, has_followed, {}),
    "renamed onto another output, archive elsewhere": Case(rename_onto, has_followed, ELSEWHERE),
}


def calls_of(scene: Scene, case: Case) -> list[Call]:
    """Those of one whole run that nothing disturbs."""
    scene.fresh()
    case.prepare(scene)
    ran = scene.run(traced=strace.CHANGING)
    require(ran.code == 0, f"it ended with {ran.code}: {ran.errors}")
    calls = scene.calls()
    converge(scene)
    case.holds(scene)
    return calls


def look(scene: Scene) -> None:
    """`lensd verify`, before the next start."""
    scene.asks = {"verb": "verify"}
    ran = scene.run()
    require(ran.code == 0, f"verify ended with {ran.code}: {ran.errors}")
    faults = [line for line in ran.lines if line["event"] == "fault"]
    require(not faults, f"verify finds {faults}")


def converge(scene: Scene) -> list[Ran]:
    """Two plain starts: nothing is compressed again, and nothing is wrong."""
    started = [scene.run(verify=True), scene.run(verify=True)]
    for ran in started:
        require(ran.code == 0, f"a start ended with {ran.code}: {ran.errors}")
        faults = [line for line in ran.lines if line["event"] in ("fault", "file.failed")]
        require(not faults, f"a fault: {faults}")
    scene.nothing_left()
    return started


@pytest.mark.fault("undo killed")
@pytest.mark.parametrize("kind", CASES)
def test_killed_at_each_call(stage: MakeStage, tell: Callable[[str], None], kind: str) -> None:
    """The next start completes it, or takes it back."""
    case = CASES[kind]
    play = stage(**case.of_scene)
    calls = calls_of(play.scenes[0], case)
    cases = sample(calls, FEW)

    def killed(scene: Scene, call: Call) -> None:
        case.prepare(scene)
        before = _bytes_of(scene)
        scene.kill(call)
        gone = before - _bytes_of(scene) - _expendable(scene, case)
        require(not gone, "bytes are gone")
        look(scene)
        started = converge(scene)
        again = [line for ran in started for line in ran.lines if line["event"] == "file.settled"]
        require(not again, f"a file is a job again: {again}")
        case.holds(scene)
        require(not scene.rescued, "something was rescued, and nobody wrote")

    play.play(cases, killed)
    tell(f"{kind}: killed at {len(cases)} of its {len(calls)} calls")


def _bytes_of(scene: Scene) -> set[bytes]:
    """All that lies under a name of a person's, or in the archive."""
    names = [p for p in (scene.top / "loras").rglob("*.safetensors") if p.is_file()]
    return {p.read_bytes() for p in names} | set(scene.originals) | set(scene.rescued)


def _expendable(scene: Scene, case: Case) -> set[bytes]:
    """What the command was to remove: outputs, and with `prune` originals."""
    old, new = scene.prepared.original, scene.prepared.newer
    originals: dict[Callable[[Scene], None], set[bytes]] = {
        prune: {old, new},
        prune_deleted: {new},
        shrink: {old},
    }
    outputs = {scene.prepared.output(b) for b in (old, new)}
    return outputs | originals.get(case.prepare, set())


WRITTEN = ["restore", "restore, archive elsewhere", "once --redo", "restore, no lease"]


@pytest.mark.fault("written meanwhile")
@pytest.mark.parametrize("kind", WRITTEN[:3])
def test_a_writer_comes(stage: MakeStage, tell: Callable[[str], None], kind: str) -> None:
    """After each call: what it writes over the output, or over what came after it, is kept."""
    case = CASES[kind]
    play = stage(**case.of_scene)
    calls = calls_of(play.scenes[0], case)
    cases = sample(calls, FEW)

    def act(scene: Scene, call: Call) -> None:
        case.prepare(scene)
        writer = Writer(scene)
        scene.run(strace.stopped_after(call), at_stop=writer.begin)
        writer.end()
        converge(scene)
        scene.newer_is_safe()

    play.play(cases, act)
    tell(f"{kind}, a writer comes: after {len(cases)} of its {len(calls)} calls")


@pytest.mark.fault("written meanwhile")
@pytest.mark.parametrize("kind", [*WRITTEN, "restore, no exchange"])
def test_a_writer_has_the_output_open(stage: MakeStage, kind: str) -> None:
    """It opened the output before the command, and writes when the command has ended.

    With a lease the command refuses. Without, the output is in place or in `rescued/`.
    """
    case = CASES[kind]
    play = stage(**(case.of_scene | ({"quiet": LATE} if "no lease" in kind else {})))

    def act(scene: Scene, _: None) -> None:
        case.prepare(scene)
        fd = os.open(scene.path, os.O_RDWR)

        def write() -> None:
            os.pwrite(fd, scene.prepared.newer, 0)
            os.ftruncate(fd, len(scene.prepared.newer))

        if "no lease" in kind:
            calls = calls_until_parting(play.scenes[1], case)
            later = threading.Timer(0.4, write)  # within the quiet time after the exchange
            ran = scene.run(strace.stopped_after(calls[-1]), at_stop=later.start)
            later.join()
            require(ran.code == 0, f"it ended with {ran.code}: {ran.errors}")
            require([scene.prepared.newer] == scene.rescued, "its bytes are not rescued")
        else:
            scene.run()
            write()
        os.close(fd)
        converge(scene)
        scene.newer_is_safe()

    play.play([None], act)


def calls_until_parting(scene: Scene, case: Case) -> list[Call]:
    calls = calls_of(scene, case)
    return calls[: next(n for n, call in enumerate(calls) if is_parting(call))]
