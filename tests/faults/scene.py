"""One small house for one job: its folders, the process that works in it, and what must hold.

The original and the newer file of a writer are of one size, so that only times and bytes differ.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import msgspec

from tests.faults import one_job
from tests.support import strace
from tests.support.home_server import temporaries_below
from tests.support.limits import PATIENCE
from tests.support.strace import Call, Tracer

REPOSITORY = Path(__file__).resolve().parent.parent.parent
PACKAGES = Path(msgspec.__file__).parents[1]  # `python -S` does not look there by itself
NAME = "styles/ink.safetensors"
NOTE = "user.note"
ATTRIBUTES = (0o640, 1_000_000_000_123_456_789)  # mode and mtime of the original

Line = dict[str, Any]
Request = dict[str, Any]  # as the control socket has it


class Prepared(NamedTuple):
    """What a real worker made once: two originals, and their outputs, in the folder `answers`."""

    answers: Path
    original: bytes
    newer: bytes

    def output(self, of: bytes) -> bytes:
        return (self.answers / f"{sha(of)}.output").read_bytes()


class Ran(NamedTuple):
    """A process that ended: its exit code (-9: killed), and what it logged and said."""

    code: int
    lines: list[Line]
    errors: str

    def count(self, event: str) -> int:
        return sum(line["event"] == event for line in self.lines)


class Violation(AssertionError):
    """A promise that was not kept."""


class Missed(Violation):
    """The moment did not come: a call's number depends a little on what else the kernel did."""


class Server:
    """A program that forks a process per run, as one_job.py does."""

    def __init__(self, errors: Path, program: str = one_job.__name__) -> None:
        self._errors = errors
        environment = {
            "PYTHONPATH": f"{REPOSITORY}:{PACKAGES}",
            "PYTHONHASHSEED": "0",
            "PATH": os.environ["PATH"],
        }
        with errors.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-m", program],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr,
                env=environment, bufsize=0,
            )  # fmt: skip

    def run(
        self,
        plan: dict[str, Any],
        tracer: Callable[[int], Tracer] | None,
        at_stop: Callable[[], None] | None,
        then: signal.Signals,
    ) -> tuple[int, str]:
        """The exit code (below 0: the signal) of one process, and what it said to stderr.

        Raises Missed if there is something to do `at_stop`, and it ended before it stopped.
        """
        before = self._errors.stat().st_size
        self._say(json.dumps(plan) + "\n")
        pid = self._hear()
        attached = tracer(pid) if tracer else None
        self._say("!")
        has_stopped = not attached or not at_stop or attached.at_stop(at_stop, then)
        code = self._hear()
        if attached:
            attached.wait()
        errors = self._errors.read_bytes()[before:].decode()
        if not has_stopped:
            raise Missed(f"it was not stopped but ended with {code}: {errors}")
        return code, errors

    def close(self) -> None:
        """End it."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()
        self._process.wait(PATIENCE)

    def _say(self, text: str) -> None:
        cast("IO[bytes]", self._process.stdin).write(text.encode())

    def _hear(self) -> int:
        return int(cast("IO[bytes]", self._process.stdout).readline())


class Scene:
    """`loras`, `state` and, unless it is elsewhere, `archive` below `top`."""

    def __init__(
        self,
        top: Path,
        prepared: Prepared,
        *,
        archive: Path | None = None,
        refuse: Sequence[str] = (),
        quiet: float = 0.0,
        story: str = "first",
        beside: Path | None = None,
    ) -> None:
        self.story = story
        self.top = top
        self.prepared = prepared
        self.archive = archive or top / "archive"
        self.refuse = refuse
        self.quiet = quiet
        self.path = top / "loras" / NAME
        beside = beside or top  # where the test's own files lie
        self.log = beside.with_name(f"{beside.name}.log")
        self.trace = beside.with_name(f"{beside.name}.trace")
        self.redo = False
        self.asks: Request = {}
        self.keep: dict[str, int] = {}
        self._server = Server(beside.with_name(f"{beside.name}.stderr"))
        self.kept = beside.with_name(f"{beside.name}.state")  # a ledger that knows the empty folder
        for folder in self._folders:
            folder.mkdir(parents=True, exist_ok=True)
        self.run()
        shutil.copytree(top / "state", self.kept)

    @property
    def _folders(self) -> tuple[Path, ...]:
        return self.top / "loras", self.top / "state", self.archive

    def fresh(self) -> None:
        """As if nothing had been, but for the story; the original lies there.

        `first`: no job knows it. `older`: it replaced one that was compressed before. `redo`: it is
        compressed, and the next start is to do it again.
        """
        for folder in self._folders:
            for entry in folder.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        shutil.copytree(self.kept, self.top / "state", dirs_exist_ok=True)
        self.log.unlink(missing_ok=True)
        self.path.parent.mkdir()
        self.redo, self.asks, self.keep = False, {}, {}
        if self.story == "older":
            self.drop(self.prepared.newer)
            self.run()
        self.drop(self.prepared.original)
        if self.story == "redo":
            self.run()
            self.redo = True
        self.jobs_before = len(self.rows())

    def drop(self, content: bytes) -> None:
        """Put a whole file there, over one that may be there."""
        made = self.path.with_suffix(".made")
        made.write_bytes(content)
        os.setxattr(made, NOTE, b"mine")
        made.chmod(ATTRIBUTES[0])
        os.utime(made, ns=(ATTRIBUTES[1], ATTRIBUTES[1]))
        made.rename(self.path)

    # the process

    def run(
        self,
        *does: str,
        traced: frozenset[str] = frozenset(),
        at_stop: Callable[[], None] | None = None,
        then: signal.Signals = signal.SIGCONT,
        kill: str = "",
        retry: bool = False,
        verify: bool = False,
    ) -> Ran:
        """One start of lensd. What strace `does` to it; with `traced` its calls can be listed.

        If it is stopped, `at_stop` is called, and it goes on, or `then` is killed.
        """
        before = self.log.stat().st_size if self.log.exists() else 0
        code, errors = self._server.run(
            {
                "top": str(self.top), "archive": str(self.archive), "log": str(self.log),
                "answers": str(self.prepared.answers), "refuse": self.refuse,
                "quiet": self.quiet, "kill": kill, "redo": self.redo,
                "retry": retry, "asks": self.asks, "verify": verify, "keep": self.keep,
            },
            self._tracer(does, traced),
            at_stop,
            then,
        )  # fmt: skip
        self.redo, self.asks, self.keep = False, {}, {}
        said = self.log.read_bytes()[before:] if self.log.exists() else b""
        return Ran(code, [json.loads(text) for text in said.splitlines()], errors)

    def _tracer(
        self, does: Sequence[str], traced: frozenset[str]
    ) -> Callable[[int], Tracer] | None:
        names = sorted(traced | {what.partition(":")[0] for what in does})
        return (lambda pid: Tracer(pid, self.trace, names, does)) if names else None

    def calls(self, names: frozenset[str] = strace.CHANGING) -> list[Call]:
        """Those of the last traced run."""
        return strace.calls(self.trace, names)

    def kill(self, call: Call) -> Ran:
        """Run, and be killed on entering that call."""
        ran = self.run(strace.killed_at(call))
        if ran.code != -9:
            raise Missed(f"it was not killed at {call} but ended with {ran.code}: {ran.errors}")
        came = strace.times_called(self.trace, call.name)
        require(came == call.number, f"killed at {call.name} {came}, not at {call}")
        return ran

    def close(self) -> None:
        self._server.close()

    # what holds

    def rows(self) -> list[dict[str, Any]]:
        """The ledger's rows of the file, oldest first."""
        with sqlite3.connect(self.top / "state/ledger.sqlite3") as db:
            db.row_factory = sqlite3.Row
            found = db.execute("SELECT * FROM files ORDER BY id").fetchall()
        db.close()
        return [dict(row) for row in found]

    def temporaries(self) -> list[Path]:
        return temporaries_below(*self._folders)

    def files(self, inside: str) -> dict[str, bytes]:
        """All files below a folder of the archive."""
        folder = self.archive / inside
        return {
            str(p.relative_to(self.archive)): p.read_bytes()
            for p in sorted(folder.rglob("*"))
            if p.is_file() and not p.name.startswith(".lensd-")
        }

    @property
    def rescued(self) -> list[bytes]:
        return list(self.files("rescued").values())

    @property
    def originals(self) -> list[bytes]:
        """What the archive holds in its proper places."""
        return [*self.files("loras").values(), *self.files(".versions").values()]

    def state(self) -> str:
        """What a kill left behind, as far as the next start can tell states apart."""
        rows = [(row["state"], row["outcome"], row["emitted"]) for row in self.rows()]
        known = {self.prepared.original: "old", self.prepared.output(self.prepared.original): "new"}
        files = [
            (p.parent.name, p.name.partition("-")[0], known.get(p.read_bytes()), p.stat().st_nlink)
            for folder in (self.top / "loras", self.archive)
            for p in folder.rglob("*")
            if p.is_file()
        ]
        return f"{rows} {sorted(files, key=str)}"

    def holds_whole(self) -> None:
        """At any moment: the name has the old or the new bytes, and the original is somewhere."""
        original, output = self.prepared.original, self.prepared.output(self.prepared.original)
        now = self.path.read_bytes()
        require(now in (original, output), f"the name holds neither old nor new: {len(now)} bytes")
        if now != original:
            require(original in self.originals, "replaced, and the archive has no original")
        require(not self.rescued, "something was rescued, and nobody wrote")

    def is_finished(self, *ran: Ran, failed: bool = False) -> None:
        """After a start that nothing disturbed: one output, one original, nothing left over.

        With `failed` an earlier try may have ended in a failure, and said so.
        """
        self.nothing_left()
        original, older = self.prepared.original, self.prepared.newer
        archived = self.archive / "loras" / NAME
        require(self.path.read_bytes() == self.prepared.output(original), "the output is not there")
        expected = {f"loras/{NAME}": original}
        if self.story == "older":
            expected[f".versions/{sha(older)}/loras/{NAME}"] = older
        require(expected == self.files(""), f"the archive: {self._listed()}")
        for path in (self.path, archived):
            found = path.lstat()
            require(found.st_nlink == 1, f"{path} has {found.st_nlink} names")
            require(
                (found.st_mode & 0o7777, found.st_mtime_ns) == ATTRIBUTES
                and os.getxattr(path, NOTE) == b"mine",
                f"{path} lost attributes",
            )
        rows = self.rows()
        compressed = [row for row in rows if row["outcome"] == "compressed"]
        require(len(compressed) == 1, f"{len(compressed)} compressed rows")
        require(compressed[0]["sha256_in"] == sha(original), "the row has another sha256")
        require(os.fsdecode(compressed[0]["archive_path"]) == str(archived), "archive_path")
        done = [row for row in rows[self.jobs_before :] if row["outcome"] == "compressed"]
        self._said_once(ran, len(done))
        ends = {"file.failed", "file.skipped", "file.kept", "file.quarantined", "error"}
        others = [line for r in ran for line in r.lines if line["event"] in ends]
        require(failed or not others, f"another end: {others}")

    def _said_once(self, ran: Sequence[Ran], jobs: int) -> None:
        """The line came; if the one who said it was killed before it could note that, twice."""
        said = [line for r in ran for line in r.lines if line["event"] == "file.compressed"]
        killed = [r for r in ran if r.code]
        require(jobs <= len(said) <= jobs + len(killed), f"{len(said)} lines file.compressed")
        if len(said) > 1:
            require(all(line.get("recovered") for line in said[1:]), "said again as if new")

    def nothing_left(self) -> None:
        require(not self.temporaries(), f"temporaries are left: {self.temporaries()}")
        open_rows = [row["state"] for row in self.rows() if row["state"] != "done"]
        require(not open_rows, f"rows are open: {open_rows}")
        wal = self.top / "state/ledger.sqlite3-wal"
        require(not wal.exists(), "the ledger was not closed")

    @property
    def whole(self) -> tuple[bytes, bytes]:
        """The original and its output."""
        return self.prepared.original, self.prepared.output(self.prepared.original)

    def newer_is_safe(self) -> None:
        """A writer wrote `newer`: those bytes and the original, if it was replaced, are there."""
        self.nothing_left()
        original, newer = self.prepared.original, self.prepared.newer
        outputs = {self.prepared.output(b): b for b in (original, newer)}
        now = self.path.read_bytes()
        origin = outputs.get(now, now)
        require(origin in (original, newer), "the name holds neither old nor new nor newer")
        if now != origin:
            require(origin in self.originals, "replaced, and the archive has no original")
        require(
            newer in (now, *self.originals, *self.rescued), f"newer bytes lost: {self._listed()}"
        )
        mixed = [b for b in (*self.originals, *self.rescued) if b not in (original, newer)]
        require(not mixed, "the archive holds what nobody wrote")

    def _listed(self) -> list[str]:
        return [f"{name} {sha(content)[:8]}" for name, content in self.files("").items()]


def require(holds: object, what: str) -> None:
    if not holds:
        raise Violation(what)


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
