"""Somebody touches the file after any call of a commit: the process is stopped there for it."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import PARALLEL, MakeStage, Stage
from tests.faults.scene import Ran, Scene, require
from tests.faults.test_killed import commit_calls
from tests.support import strace
from tests.support.limits import PATIENCE
from tests.support.marks import needs_program
from tests.support.strace import Call
from tests.support.suites import FULL, sample

pytestmark = [pytest.mark.slow, pytest.mark.fault("written meanwhile"), needs_program("strace")]

SCENES: dict[str, dict[str, Any]] = {
    "lease": {},
    "lease, archive elsewhere": {"elsewhere": True},
    "no lease": {"refuse": ["lease"], "quiet": 0.05},
    "no lease, archive elsewhere": {"refuse": ["lease"], "elsewhere": True, "quiet": 0.05},
    "no exchange": {"refuse": ["exchange"]},
}
FEW = 10
LATE = 2.0  # seconds, within which a writer slips in


class Writer:
    """Opens the file for writing, as soon as the kernel lets it, and writes `newer` over it."""

    def __init__(self, scene: Scene, *, at_once: bool = True, path: str | None = None) -> None:
        self._path = path or str(scene.path)
        self._newer = scene.prepared.newer
        self._may_write = threading.Event()
        if at_once:
            self._may_write.set()
        self.opened = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def begin(self) -> None:
        """Returns when the kernel knows of it; the opening itself may come later."""
        with contextlib.suppress(BlockingIOError):
            os.close(os.open(self._path, os.O_RDWR | os.O_NONBLOCK))
        self._thread.start()

    def end(self) -> None:
        self._may_write.set()
        self._thread.join(PATIENCE)
        require(not self._thread.is_alive(), "the writer never got it")

    def _write(self) -> None:
        fd = os.open(self._path, os.O_RDWR)
        self.opened.set()
        self._may_write.wait(PATIENCE)
        os.pwrite(fd, self._newer, 0)
        os.ftruncate(fd, len(self._newer))
        os.close(fd)


@contextlib.contextmanager
def reader(scene: Scene) -> Iterator[str]:
    """A path that leads to the file as it is now, whatever becomes of its name."""
    fd = os.open(scene.path, os.O_RDONLY)
    yield f"/proc/self/fd/{fd}"
    os.close(fd)


def after_each_call(
    play_in: MakeStage,
    kind: str,
    act: Callable[[Scene, Call], None],
    before: Callable[[Call], bool] = lambda _: False,
) -> str:
    """`act` for the calls of a commit, up to the one `before` which it ends; what to tell of it."""
    play = play_in(**SCENES[kind])
    calls = list(itertools.takewhile(lambda c: not before(c), commit_calls(play.scenes[0])))
    cases = sample(calls, FEW)
    play.play(cases, act)
    return f"{kind}: after {len(cases)} of the {len(calls)} calls of a commit"


def converge(scene: Scene) -> Ran:
    """One more start, with its look at everything."""
    ran = scene.run()
    require(ran.code == 0, f"a start ended with {ran.code}: {ran.errors}")
    return ran


def is_exchange(call: Call) -> bool:
    return call.name == "renameat2" and "RENAME_EXCHANGE" in call.text


def is_parting(call: Call) -> bool:
    """The unlink of the original that came out of the exchange."""
    return call.name == "unlinkat" and ".lensd-" in call.text


def kill(scene: Scene, call: Call, act: Callable[[], None]) -> Ran:
    """`act` after the call, then SIGKILL."""
    ran = scene.run(strace.stopped_after(call), at_stop=act, then=signal.SIGKILL)
    require(ran.code in (0, -9), f"it ended with {ran.code}: {ran.errors}")
    return ran


def stop(scene: Scene, call: Call, act: Callable[[], None]) -> Ran:
    ran = scene.run(strace.stopped_after(call), at_stop=act)
    require(ran.code == 0, f"it ended with {ran.code}: {ran.errors}")
    return ran


@pytest.mark.parametrize("kind", ["lease", "lease, archive elsewhere", "no lease", "no exchange"])
def test_a_writer_comes(stage: MakeStage, tell: Callable[[str], None], kind: str) -> None:
    """Its bytes are in place, or rescued; under a lease it waits for no more than a moment."""

    def act(scene: Scene, call: Call) -> None:
        writer = Writer(scene)
        stop(scene, call, writer.begin)
        writer.end()
        converge(scene)
        scene.newer_is_safe()

    tell("a writer comes, " + after_each_call(stage, kind, act))


@pytest.mark.parametrize("kind", ["lease", "lease, archive elsewhere"])
def test_a_reader_becomes_a_writer(
    stage: MakeStage, tell: Callable[[str], None], kind: str
) -> None:
    """It opens again what it has open: also the original that came out of the exchange.

    Not after the original was parted with: no name leads to it then but that in the archive.
    """

    def act(scene: Scene, call: Call) -> None:
        with reader(scene) as path:
            writer = Writer(scene, path=path)
            stop(scene, call, writer.begin)
            writer.end()
            converge(scene)
        scene.newer_is_safe()

    tell("a reader becomes a writer, " + after_each_call(stage, kind, act, before=is_parting))


@pytest.mark.parametrize("kind", ["no lease", "no lease, archive elsewhere"])
def test_a_writer_had_it_open(stage: MakeStage, tell: Callable[[str], None], kind: str) -> None:
    """It writes through what it opened before the job: as long as the file has a name."""

    def act(scene: Scene, call: Call) -> None:
        fd = os.open(scene.path, os.O_RDWR)
        named: list[bool] = []

        def write() -> None:
            named.append(os.fstat(fd).st_nlink > 0)
            os.pwrite(fd, scene.prepared.newer, 0)

        ran = stop(scene, call, write)
        os.close(fd)
        converge(scene)
        if named == [True]:
            scene.newer_is_safe()
            require(not (is_exchange(call) and scene.rescued), "it was not exchanged back")
        else:
            scene.is_finished(ran)

    tell("a writer had it open, " + after_each_call(stage, kind, act))


@pytest.mark.parametrize("kind", SCENES)
def test_a_newer_file_takes_the_name(
    stage: MakeStage, tell: Callable[[str], None], kind: str
) -> None:
    """As a download program or `mv` does it."""

    def act(scene: Scene, call: Call) -> None:
        stop(scene, call, lambda: scene.drop(scene.prepared.newer))
        converge(scene)
        scene.newer_is_safe()
        newer = scene.prepared.newer
        require(scene.path.read_bytes() in (newer, scene.prepared.output(newer)), "an older file")

    tell("a newer file, " + after_each_call(stage, kind, act))


@pytest.mark.parametrize("kind", ["lease", "no lease", "no exchange"])
def test_the_file_is_deleted(stage: MakeStage, tell: Callable[[str], None], kind: str) -> None:
    """It does not come back."""

    def act(scene: Scene, call: Call) -> None:
        stop(scene, call, scene.path.unlink)
        converge(scene)
        scene.nothing_left()
        require(not scene.path.exists(), "it came back")
        require(not scene.rescued, "something was rescued")

    tell("deleted, " + after_each_call(stage, kind, act))


@pytest.mark.parametrize("kind", SCENES)
def test_the_file_is_renamed(stage: MakeStage, tell: Callable[[str], None], kind: str) -> None:
    """Compressed under its new name, and its original can be had back."""

    def act(scene: Scene, call: Call) -> None:
        new = scene.path.with_name("paint.safetensors")
        stop(scene, call, lambda: os.rename(scene.path, new))
        converge(scene)
        is_renamed(scene, new)

    tell("renamed, " + after_each_call(stage, kind, act))


def is_renamed(scene: Scene, new: Path) -> None:
    scene.nothing_left()
    require(not scene.path.exists(), "the old name is back")
    output = scene.prepared.output(scene.prepared.original)
    require(new.read_bytes() == output, f"not compressed: {scene.rows()[-1]['reason']}")
    # what was copied before the name changed may stay under the old one
    require({scene.prepared.original} == set(scene.originals), "the archive lacks the original")
    require(not scene.rescued, "something was rescued")
    for name in scene.files("loras"):
        require((scene.archive / name).stat().st_nlink == 1, f"{name} has another name")


@pytest.mark.fault("truncated meanwhile")
@pytest.mark.parametrize("kind", ["lease", "no lease", "no lease, archive elsewhere"])
def test_the_file_is_truncated(stage: MakeStage, tell: Callable[[str], None], kind: str) -> None:
    """Whoever does that means it; an output is never put over it, and the archive stays true."""

    def act(scene: Scene, call: Call) -> None:
        half = len(scene.prepared.original) // 2
        thread = threading.Thread(target=os.truncate, args=(scene.path, half))

        def truncate() -> None:
            with contextlib.suppress(BlockingIOError):
                os.close(os.open(scene.path, os.O_RDWR | os.O_NONBLOCK))
            thread.start()

        stop(scene, call, truncate)
        thread.join(PATIENCE)
        require(not thread.is_alive(), "it never got the file")
        converge(scene)
        scene.nothing_left()
        now = scene.path.read_bytes()
        cut = {b[:half].ljust(half, b"\0") for b in scene.whole}
        require(now in cut or now in scene.whole, "the name holds what nobody wrote")
        allowed = (scene.prepared.original, *cut)
        require(all(b in allowed for b in scene.originals), "the archive holds half a file")

    tell("truncated, " + after_each_call(stage, kind, act))


@pytest.mark.fault("killed")
@pytest.mark.parametrize("kind", ["no lease", "no lease, archive elsewhere"])
def test_killed_and_a_writer_had_it_open(
    stage: MakeStage, tell: Callable[[str], None], kind: str
) -> None:
    """What it writes before the next start is in place, or rescued."""

    def act(scene: Scene, call: Call) -> None:
        fd = os.open(scene.path, os.O_RDWR)
        first = kill(scene, call, lambda: None)
        named = os.fstat(fd).st_nlink > 0
        os.pwrite(fd, scene.prepared.newer, 0)
        os.close(fd)
        second = converge(scene)
        if named:
            scene.newer_is_safe()
        else:
            scene.is_finished(first, second)

    tell("killed, a writer had it open, " + after_each_call(stage, kind, act))


@pytest.mark.fault("killed")
@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("kind", ["lease", "lease, archive elsewhere"])
def test_killed_and_a_writer_comes(
    stage: MakeStage, tell: Callable[[str], None], kind: str, *, late: bool
) -> None:
    """The lease goes with the killed; the waiting writer writes before or after the next start."""

    def act(scene: Scene, call: Call) -> None:
        writer = Writer(scene, at_once=not late)
        kill(scene, call, writer.begin)
        require(writer.opened.wait(PATIENCE), "the writer never got it")
        if late:
            converge(scene)
        writer.end()
        converge(scene)
        scene.newer_is_safe()

    when = "after" if late else "before"
    tell(f"killed, a writer comes {when} the next start, " + after_each_call(stage, kind, act))


@pytest.mark.fault("killed")
@pytest.mark.parametrize("kind", SCENES)
def test_killed_and_renamed(stage: MakeStage, tell: Callable[[str], None], kind: str) -> None:
    """lensd's own link in the archive does not make the new name look hard-linked."""

    def act(scene: Scene, call: Call) -> None:
        new = scene.path.with_name("paint.safetensors")
        kill(scene, call, lambda: os.rename(scene.path, new))
        converge(scene)
        is_renamed(scene, new)

    tell("killed and renamed, " + after_each_call(stage, kind, act))


@pytest.mark.fault("killed")
@pytest.mark.parametrize("kind", SCENES)
def test_killed_and_replaced(stage: MakeStage, tell: Callable[[str], None], kind: str) -> None:
    """A newer file that took the name while lensd was down is the one that is compressed."""

    def act(scene: Scene, call: Call) -> None:
        newer = scene.prepared.newer
        kill(scene, call, lambda: scene.drop(newer))
        converge(scene)
        scene.newer_is_safe()
        require(scene.path.read_bytes() == scene.prepared.output(newer), "not compressed")

    tell("killed and replaced, " + after_each_call(stage, kind, act))


@pytest.mark.fault("killed")
@pytest.mark.parametrize("kind", ["lease", "no lease", "no exchange"])
def test_killed_and_deleted(stage: MakeStage, tell: Callable[[str], None], kind: str) -> None:
    """It does not come back."""

    def act(scene: Scene, call: Call) -> None:
        kill(scene, call, scene.path.unlink)
        converge(scene)
        scene.nothing_left()
        require(not scene.path.exists(), "it came back")
        require(not scene.rescued, "something was rescued")

    tell("killed and deleted, " + after_each_call(stage, kind, act))


# Moments between two calls of the matrix above.


def call_that(play: Stage, holds: Callable[[Call], bool], *, after: int = 0) -> Call:
    """The first call of a commit for which that holds, or one that comes so much later."""
    calls = commit_calls(play.scenes[0])
    return calls[next(n for n, call in enumerate(calls) if holds(call)) + after]


def in_time(scene: Scene, call: Call) -> None:
    """Wait until the process has entered that call: strace writes it down before it is late."""
    deadline = time.monotonic() + PATIENCE
    while not scene.trace.exists() or strace.times_called(scene.trace, call.name) < call.number:
        require(time.monotonic() < deadline, f"{call} never came")
        time.sleep(0.01)


@pytest.mark.parametrize("then", ["goes on", "killed", "killed, and writes after the next start"])
@pytest.mark.parametrize("kind", ["lease", "lease, archive elsewhere"])
def test_a_writer_slips_in_before_the_exchange(stage: MakeStage, kind: str, then: str) -> None:
    """After the last look at the lease: it gets the old file, which comes out of the exchange."""
    play = stage(**SCENES[kind])
    exchange = call_that(play, is_exchange)
    late = [strace.late_at(exchange, LATE)]
    if then != "goes on":
        late.append(strace.killed_at(call_that(play, is_exchange, after=1)))

    def act(scene: Scene, late: list[str]) -> None:
        writer = Writer(scene, at_once="after" not in then)

        def slip_in() -> None:
            in_time(scene, exchange)
            writer.begin()

        scene.trace.unlink(missing_ok=True)  # it is of an earlier run
        beside = threading.Thread(target=slip_in)
        beside.start()
        ran = scene.run(*late)
        beside.join()
        require(writer.opened.wait(PATIENCE), "the writer never got it")
        require((ran.code == -9) == (then != "goes on"), f"it ended with {ran.code}")
        if "after" in then:
            require(scene.path.read_bytes() != scene.prepared.original, "it came too early")
            converge(scene)
        writer.end()
        converge(scene)
        scene.newer_is_safe()
        require(not scene.rescued, "its file was not given its name back")

    play.play([late] * (PARALLEL if FULL else 1), act)


@pytest.mark.parametrize("killed", [False, True], ids=["goes on", "killed"])
@pytest.mark.parametrize("kind", ["no lease", "no lease, archive elsewhere"])
def test_a_writer_writes_within_the_quiet_time(
    stage: MakeStage, kind: str, *, killed: bool
) -> None:
    """What came out of the exchange is looked at again before it goes, also after a restart."""
    play = stage(**(SCENES[kind] | {"quiet": LATE}))
    last = call_that(play, is_parting, after=-1)

    def act(scene: Scene, last: Call) -> None:
        fd = os.open(scene.path, os.O_RDWR)
        writer = threading.Timer(0.4, lambda: os.pwrite(fd, scene.prepared.newer, 0))
        if killed:
            kill(scene, last, lambda: None)
            writer.start()
            converge(scene)
        else:
            stop(scene, last, writer.start)
        writer.join()
        os.close(fd)
        require([scene.prepared.newer] == scene.rescued, "its bytes are lost")
        converge(scene)
        scene.newer_is_safe()

    play.play([last] * (PARALLEL if FULL else 1), act)
