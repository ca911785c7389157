"""Kinds of writers, real programs most of them, and what must become of what they write."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

from tests.support.limits import PATIENCE

WRITER = str(Path(__file__).with_name("writer.py"))
QUIET, PAUSE, UNPROVEN = 0.5, 0.8, 10.0

# whole: a job, soon; doubtful: a job after `unproven_seconds`; cut: no job, ever
Expected = Literal["whole", "doubtful", "cut"]


@dataclass
class Case:
    """One file: `truth` are the bytes that its writer means to write to `target`."""

    kind: str
    truth: Path
    target: Path
    server: str
    elsewhere: Path  # on another disk
    seed: int
    ended: float = field(default=0.0)  # the writer had not ended before


@dataclass(frozen=True)
class Writer:
    write: Callable[[Case], None]
    expected: Expected


def _run(*command: str, may_fail: bool = False, attempts: int = 1) -> None:
    for left in reversed(range(attempts)):
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )  # aria2c reports on stdout
        if done.returncode == 0 or may_fail:
            return
        assert left, (command, done.stdout)


def _slow(kind: str, pieces: int = 4) -> Callable[[Case], None]:
    def write(case: Case) -> None:
        own = [sys.executable, "-S", "-E", WRITER, kind, str(case.truth), str(case.target)]
        _run(*own, str(PAUSE), str(pieces))

    return write


def _killed(kind: str) -> Callable[[Case], None]:
    def write(case: Case) -> None:
        own = [sys.executable, "-S", "-E", WRITER, kind, str(case.truth), str(case.target)]
        process = subprocess.Popen([*own, "3600", "4"])  # sleeps after its first piece
        try:
            size = case.truth.stat().st_size
            _until(lambda: case.target.exists() and _blocks(case.target) >= min(size // 4, 4096))
        finally:
            process.kill()
            process.wait()

    return write


def _blocks(path: Path) -> int:
    return len(path.read_bytes().rstrip(b"\0"))


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, "the writer does not write"
        time.sleep(0.02)


def _curl(*options: str, cut: bool = False, kill: bool = False) -> Callable[[Case], None]:
    def write(case: Case) -> None:
        url = f"{case.server}/{'cut' if cut else 'stall' if kill else 'slow'}/{case.truth.name}"
        command = ["curl", "-sS", *options, "-o", str(case.target), url]
        if not kill:
            # once it received an answer without a status line: a failure shows all bytes
            _run(*command, "--trace-ascii", "-", may_fail=cut)
            return
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            _until(lambda: case.target.exists() and case.target.stat().st_size > 0)
        finally:
            process.kill()
            process.wait()

    return write


def _aria2(allocation: str, *, kill: bool = False) -> Callable[[Case], None]:
    def write(case: Case) -> None:
        url = f"{case.server}/{'stall' if kill else 'slow'}/{case.truth.name}"
        command = ["aria2c", "--no-conf", "--summary-interval=0", f"--file-allocation={allocation}"]
        command += ["-d", str(case.target.parent), "-o", case.target.name, url]
        if not kill:
            _run(*command, attempts=3)  # it gives up now and then, and continues its file
            return
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            _until(lambda: case.target.exists() and Path(f"{case.target}.aria2").exists())
        finally:
            process.kill()
            process.wait()

    return write


def _rsync(*options: str) -> Callable[[Case], None]:
    return lambda case: _run("rsync", "-t", *options, str(case.truth), str(case.target))


def _cp(case: Case) -> None:
    """cp reads from a program that pauses."""
    size = case.truth.stat().st_size // 2 + 1
    slowly = (
        f'{{ head -c {size} "$1"; sleep {PAUSE}; tail -c +{size + 1} "$1"; }} | cp /dev/stdin "$2"'
    )
    _run("sh", "-c", slowly, "sh", str(case.truth), str(case.target))


def _dd(case: Case) -> None:
    """Blocks out of order: the first and the last early, so that the length is right at once."""
    blocks = -(-case.truth.stat().st_size // 4096)
    between = list(range(1, blocks - 1))
    random.Random(case.seed).shuffle(between)  # noqa: S311
    rounds = [[0, blocks - 1], between[: len(between) // 2], between[len(between) // 2 :]]
    for numbers in rounds:
        script = "; ".join(
            f'dd if="$1" of="$2" bs=4096 count=1 skip={n} seek={n} conv=notrunc status=none'
            for n in numbers
        )
        _run("sh", "-ec", script, "sh", str(case.truth), str(case.target))
        time.sleep(PAUSE)


def _mv(case: Case) -> None:
    """From another disk."""
    away = case.elsewhere / case.truth.name
    away.write_bytes(case.truth.read_bytes())
    _run("mv", str(away), str(case.target))


def _browser(case: Case) -> None:
    """An empty file to keep the name, a .part beside it that is renamed over it at the end."""
    case.target.touch()
    part = Path(f"{case.target}.part")
    data = case.truth.read_bytes()
    part.write_bytes(data[:1000])
    time.sleep(2 * PAUSE)
    with part.open("ab") as file:
        file.write(data[1000:])
    part.rename(case.target)


def _zero(start: float) -> Callable[[Case], None]:
    """A whole file whose numbers are zeros from a share of its data on."""

    def write(case: Case) -> None:
        data = case.truth.read_bytes()
        header = 8 + int.from_bytes(data[:8], "little")
        kept = header + int((len(data) - header) * start)
        case.truth.write_bytes(data[:kept] + bytes(len(data) - kept))
        _run("cp", "--sparse=never", str(case.truth), str(case.target))

    return write


def _sparse(case: Case) -> None:
    """A whole file with a hole, and numbers after it."""
    data = bytearray(case.truth.read_bytes())
    data[16384:32768] = bytes(16384)
    case.truth.write_bytes(data)
    _run("cp", "--sparse=always", str(case.truth), str(case.target))


WRITERS: dict[str, Writer] = {
    "script that opens and closes": Writer(_slow("append"), "whole"),
    "program that holds it open": Writer(_slow("hold"), "whole"),
    "fallocate, then fill": Writer(_slow("allocate"), "whole"),
    "zeros, then fill": Writer(_slow("zeros"), "whole"),
    "mmap": Writer(_slow("mapped"), "whole"),
    "cp from a slow pipe": Writer(_cp, "whole"),
    "mv from another disk": Writer(_mv, "whole"),
    "dd with seeks": Writer(_dd, "whole"),
    "rsync": Writer(_rsync(), "whole"),
    "rsync --inplace, slow": Writer(_rsync("--inplace", "--bwlimit=20"), "whole"),
    "rsync --partial, slow": Writer(_rsync("--partial", "--bwlimit=20"), "whole"),
    "curl": Writer(_curl(), "whole"),
    "aria2c": Writer(_aria2("none"), "whole"),
    "aria2c, preallocated": Writer(_aria2("prealloc"), "whole"),
    "browser with .part": Writer(_browser, "whole"),
    "whole, ends in zeros": Writer(_zero(0.5), "doubtful"),
    "whole, all zeros": Writer(_zero(0.0), "doubtful"),
    "whole, sparse": Writer(_sparse, "doubtful"),
    "script, cut off": Writer(_slow("append", 3), "cut"),
    "script, killed": Writer(_killed("append"), "cut"),
    "mmap, cut off in the header": Writer(_killed("mapped"), "doubtful"),
    "fallocate, killed": Writer(_killed("allocate"), "doubtful"),
    "curl, server gone": Writer(_curl(cut=True), "cut"),
    "curl, killed": Writer(_curl(kill=True), "cut"),
    "aria2c, killed": Writer(_aria2("none", kill=True), "cut"),
    "aria2c, killed, preallocated": Writer(_aria2("prealloc", kill=True), "cut"),
}


class SlowServer(ThreadingHTTPServer):
    """`/slow/NAME` in pieces, `/cut/NAME` ends in the middle, `/stall/NAME` never goes on."""

    daemon_threads = True
    request_queue_size = 100

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Slow)
        self.folder = folder
        self.closing = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def stop(self) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()


class _Slow(BaseHTTPRequestHandler):
    server: SlowServer

    def do_GET(self) -> None:
        _, how, name = self.path.split("/")
        data = (self.server.folder / name).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        third = len(data) // 3
        try:
            self.wfile.write(data[:third])
            self.wfile.flush()
            self.server.closing.wait(3600 if how == "stall" else PAUSE)
            if how == "slow":
                self.wfile.write(data[third:])
        except OSError:
            return  # the client was killed

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """No line for each request."""
