"""Users, other programs, faults and wrong clocks at random: no byte string is lost.

A model (user_programs.py) knows what programs wrote. After every step each byte string that it
expects must be under a name, in the archive or in `rescued/`.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.faults.user_programs import UserPrograms, original_of, sha256_of
from tests.support import clock, suites
from tests.support.disks import Mounts, make_ext4
from tests.support.home_server import HomeServer, temporaries_below, wait_until
from tests.support.marks import needs_program, needs_root
from tests.support.running import DaemonError, Line, RunningDaemon, catches

pytestmark = [pytest.mark.slow, needs_root, needs_program("faketime")]

SECONDS = 600.0 if suites.FULL else 60.0  # for each seed
SETTLED_EVERY = 40  # steps
ALREADY_IN_USE = 6  # the exit code
FOUND_WITHIN = 20.0  # seconds: bytes on their way from one name to another
OFFSETS = ("+0", "+0", "+400d", "+400d", "-1y", "-10y", "+2h")


class World:
    """The home server, its user, and all that goes wrong there."""

    def __init__(self, server: HomeServer, mounts: Mounts, dice: random.Random) -> None:
        self.server = server
        self.dice = dice
        self.counts: Counter[str] = Counter()
        self.done: list[str] = []
        self._mounts = mounts
        self._image: Path | None = None
        if dice.random() < 0.5:
            self._image = server.top / "archive.ext4"
            make_ext4(self._image, "64M")
            mounts.image(server.archive, self._image)
        more = server.top / "more"
        more.mkdir()
        watch = [{"path": str(server.loras)}, {"path": str(more)}]
        server.configure(watch=watch, keep_days=1, worker={"processes": dice.choice((1, 2))})
        self.users = UserPrograms([server.loras, more], server.elsewhere, dice)
        self._clock = clock.Clock(server.top / "clock")
        self._daemon: RunningDaemon | None = None
        self._running = contextlib.ExitStack()
        self._faults: list[Callable[[], str]] = [
            *[self.kill] * 4,
            self.stop,
            self.hang_up,
            self.kill_worker,
            self.freeze,
            *[self.set_clock] * 2,
            self.lose_ledger,
            *([self.unmount_archive] if self._image else []),
        ]
        self._commands: list[Callable[[], str]] = [
            *[self.restore] * 3,
            self.purge,
            *[self.prune] * 2,
            self.retry,
            self.verify,
            self.pause,
        ]

    # the daemon

    def start(self) -> None:
        """Start a daemon, also where the last one found that a command uses the ledger."""
        if self._daemon is not None and self._daemon.process.poll() == ALREADY_IN_USE:
            self.end(RunningDaemon.kill)
        if self._daemon is None:
            self._daemon = self._running.enter_context(self.server.daemon(env=self._clock.env))

    def end(self, end: Callable[[RunningDaemon], object]) -> None:
        """End the daemon and look at what it logged."""
        if self._daemon is None:
            return
        daemon, self._daemon = self._daemon, None
        end(daemon)
        self._running.close()
        for line in daemon.lines:
            self.done.append(f"    {_in_short(line, self.server.top)}")
            self.counts[line["event"]] += 1
            _require_no_fault(line)

    # faults

    def kill(self) -> str:
        self.end(RunningDaemon.kill)
        self._maybe_start()
        return "kill the daemon"

    def stop(self) -> str:
        self.end(RunningDaemon.stop)
        self._maybe_start()
        return "stop the daemon"

    def hang_up(self) -> str:
        """Not while Python starts: the signal would end it."""
        process = self._daemon and self._daemon.process
        if not process or process.poll() is not None or not catches(process.pid, signal.SIGHUP):
            return "nothing"
        return self._signal(signal.SIGHUP)

    def freeze(self) -> str:
        self._signal(signal.SIGSTOP)
        time.sleep(self.dice.uniform(0, 1))
        return self._signal(signal.SIGCONT)

    def kill_worker(self) -> str:
        if self._daemon is not None:
            with contextlib.suppress(psutil.NoSuchProcess):  # it, or the daemon, ends just now
                for child in psutil.Process(self._daemon.process.pid).children():
                    child.kill()
        return "kill the worker"

    def set_clock(self) -> str:
        offset = self.dice.choice(OFFSETS)
        self._clock.set(offset)
        return f"set the clock to {offset}"

    def lose_ledger(self) -> str:
        self.end(RunningDaemon.stop)
        for path in self.server.state.glob("ledger*"):
            path.unlink()
        self._maybe_start()
        return "delete the ledger"

    def unmount_archive(self) -> str:
        """The archive's disk goes for a while; a job may be under way."""
        archive = self.server.archive
        subprocess.run(["umount", "--lazy", archive], check=True)
        time.sleep(self.dice.uniform(0, 2))
        self._act(self.users.operations)
        time.sleep(self.dice.uniform(0, 1))
        below = [p for p in archive.rglob("*") if p.is_file()]
        assert not below, f"below the mount point of the archive: {below}"
        assert self._image is not None
        wait_until(self._mount, "the disk is free", 60)
        return "unmount the archive and mount it again"

    def _mount(self) -> bool:
        done = subprocess.run(
            ["mount", "-o", "loop", str(self._image), self.server.archive], check=False
        )
        return done.returncode == 0

    def _signal(self, number: signal.Signals) -> str:
        if self._daemon is not None:
            self._daemon.process.send_signal(number)
        return number.name

    def _maybe_start(self) -> None:
        """Some operations happen while no daemon runs."""
        if self.dice.random() < 0.7:
            self.start()

    # commands

    def restore(self) -> str:
        return self._restore()

    def purge(self) -> str:
        return self._restore("--purge")

    def _restore(self, *options: str) -> str:
        files = sorted(self.users.expected)
        if not files:
            return "nothing"
        # one that a program has open for writing, if there is one
        held = sorted(set(files) - set(self.users.free_files()))
        path = self.dice.choice(held or files)
        code = self._lensd("restore", *options, str(path))
        if code == 0:
            self.users.note_restored(path)
        return f"restore {path}: {code}"

    def prune(self) -> str:
        return f"prune: {self._lensd('prune')}"

    def retry(self) -> str:
        return f"retry: {self._lensd('retry')}"

    def verify(self) -> str:
        return f"verify: {self._lensd('verify')}"

    def pause(self) -> str:
        first = self._lensd("pause")
        self._act(self.users.operations)
        return f"pause, resume: {first}, {self._lensd('resume')}"

    def _lensd(self, verb: str, *arguments: str) -> int:
        code = self.server.lensd(verb, *arguments).returncode
        assert code != 3, f"a bug in lensd {verb}"
        return code

    # steps

    def step(self) -> None:
        kind = self.dice.choices((self.users.operations, self._commands, self._faults), (8, 2, 2))[
            0
        ]
        self._act(kind)
        time.sleep(self.dice.uniform(0, 1.2) ** 2)
        self.require_nothing_lost()

    def _act(self, kind: list[Callable[[], str]]) -> None:
        operation = self.dice.choice(kind)
        said = operation()
        if said != "nothing":
            self.counts[f"operation {operation.__name__}"] += 1
            said = said.replace(f"{self.server.top}/", "")
            self.done.append(f"{time.strftime('%H:%M:%S')} {said}")

    def require_nothing_lost(self, *, seconds: float = FOUND_WITHIN) -> None:
        """Bytes may be between two names for a moment, so a miss counts when it lasts."""
        places = [*self.users.roots, self.server.archive]
        deadline = time.monotonic() + seconds
        while missing := self.users.missing(places):
            assert time.monotonic() < deadline, f"lost: {missing}"
            time.sleep(0.05)

    def settle(self) -> None:
        """Nothing goes wrong for a while: then every file is what its user expects."""
        self.users.finish()
        self._clock.set("+0")
        self.start()
        self._lensd("resume")
        self._lensd("retry")
        wait_until(self._is_idle, "the daemon has nothing to do, and no temporary is left")
        self.require_nothing_lost()
        for path, expected in sorted(self.users.expected.items()):
            data = path.read_bytes()
            stands_for = sha256_of(data) if sha256_of(data) == expected else original_of(data)
            assert stands_for == expected, f"{path} stands for {stands_for}, not for {expected}"

    def restore_all(self) -> None:
        """Each file is its original again, bit for bit."""
        self.settle()
        self.end(RunningDaemon.stop)
        for path, expected in sorted(self.users.expected.items()):
            if sha256_of(path.read_bytes()) != expected:
                done = self.server.lensd("restore", str(path))
                assert done.returncode == 0, done.stderr
                assert sha256_of(path.read_bytes()) == expected, f"{path} after restore"
        self.require_nothing_lost(seconds=0)

    def report(self) -> None:
        """Add what the daemon says and logged to what was done, after a failure."""
        self.done.append(f"status: {json.dumps(self.server.status())}")
        with contextlib.suppress(AssertionError):  # the first failure counts
            self.end(RunningDaemon.kill)

    def _is_idle(self) -> bool:
        """Not before the daemon is ready: until then it may not have swept old temporaries.

        A file that was just written is no job yet, and may become one at any moment after this.
        """
        self.start()
        if not self._is_ready():
            return False
        status = self.server.status()
        is_busy = status["queued"] or status["running"] or status["waiting"] or status["held"]
        return status["daemon"] and not is_busy and not self._temporaries()

    def _is_ready(self) -> bool:
        assert self._daemon is not None
        if any(line["event"] == "daemon.ready" for line in self._daemon.lines):
            return True
        try:
            self._daemon.wait_for_event("daemon.ready")
        except DaemonError:
            if self._daemon.process.poll() != ALREADY_IN_USE:
                raise
            return False
        return True

    def _temporaries(self) -> list[Path]:
        return temporaries_below(*self.users.roots, self.server.archive)


def _in_short(line: Line, top: Path) -> str:
    """A log line for the report of a failure."""
    fields = ("event", "path", "from_path", "reason", "message", "rescued_path", "method")
    text = " ".join(str(line[field]) for field in fields if field in line)
    return f"{line['timestamp'][11:19]} {text}".replace(f"{top}/", "")[:300]


def _require_no_fault(line: Line) -> None:
    assert line["event"] != "file.pruned", f"no original is a day old: {line}"
    assert line["event"] != "daemon.error", line
    assert line.get("reason") != "internal", line


@pytest.fixture(params=range(3))
def seed(request: pytest.FixtureRequest) -> int:
    return suites.seed(request.param)


@pytest.fixture
def world(tmp_path: Path, seed: int) -> Iterator[World]:
    with Mounts() as mounts:
        top = mounts.ext4_in_memory(tmp_path / "disk") / "home"
        top.mkdir()
        made = World(HomeServer(top), mounts, random.Random(seed))  # noqa: S311
        try:
            yield made
        finally:
            made.users.finish()
            made.end(RunningDaemon.kill)


@pytest.mark.fault("anything")
def test_nothing_is_lost(world: World, seed: int, tell: Callable[[str], None]) -> None:
    """Operations, commands and faults in random order: each byte string stays."""
    deadline = time.monotonic() + SECONDS
    steps = 0
    try:
        world.start()
        while time.monotonic() < deadline:
            world.step()
            steps += 1
            if steps % SETTLED_EVERY == 0:
                world.settle()
        world.restore_all()
    except (AssertionError, OSError, DaemonError) as error:
        world.report()
        last = "\n".join(world.done)
        raise AssertionError(
            f"{error}\nseed {seed}, step {steps}; all that was done:\n{last}"
        ) from error
    compressed, lost = world.counts["file.compressed"], len(world.users.owed)
    assert compressed, world.counts
    tell(f"seed {seed}: {steps} steps, {compressed} files compressed, {lost} byte strings, 0 lost")
