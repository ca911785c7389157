"""The log of a real process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from lensd.errors import StorageError
from lensd.logs import log
from lensd.report import schema
from tests.support.limits import PATIENCE

pytestmark = pytest.mark.lengthy  # each starts a process

IMPORTS = """
import os, sys, threading, signal
from lensd.logs import log
from lensd.logs.events import *
"""
SETTLED = 'log.emit(FileSettled(watch="w", path="/a", job_id="1", bytes=3, wait=0.5))'
RESCUED = 'log.emit(FileRescued(watch="w", path="/a", job_id=None, rescued_path="/b", message="x"))'
CRASHED = 'log.emit(WorkerCrashed(pid=2, exit=-9, job_id=None, message="x"))'


def run(script: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """A Python process of its own that logs."""
    code = f"{IMPORTS}{script}\n"
    options = {"capture_output": True, "timeout": 60, **options}
    return subprocess.run([sys.executable, "-c", code], check=False, **options)


def lines(raw: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in raw.decode().splitlines()]


def test_a_line_has_its_head_first_and_is_valid() -> None:
    """Time in UTC with microseconds, level, event, schema; then what was given."""
    (line,) = lines(run(f"log.configure(None)\n{SETTLED}").stdout)
    Draft202012Validator(schema.load()).validate(line)
    assert list(line)[:6] == ["timestamp", "level", "event", "schema", "path", "watch"]
    del line["timestamp"]
    assert line == {
        "level": "info",
        "event": "file.settled",
        "schema": 1,
        "watch": "w",
        "path": "/a",
        "job_id": "1",
        "bytes": 3,
        "wait": 0.5,
    }


def test_lines_below_the_level_are_left_out() -> None:
    """`warning` lets warnings and errors through; each event has its level."""
    script = f"log.configure(None, 'warning')\n{SETTLED}\n{RESCUED}\n{CRASHED}"
    found = [(line["level"], line["event"]) for line in lines(run(script).stdout)]
    assert [("warning", "file.rescued"), ("error", "worker.crashed")] == found


def test_the_log_can_be_configured_again(tmp_path: Path) -> None:
    """Before the first time, lines go to stdout."""
    file = tmp_path / "log"
    done = run(f"{SETTLED}\nlog.configure({str(file)!r})\n{CRASHED}")
    assert ["file.settled"] == [line["event"] for line in lines(done.stdout)]
    assert ["worker.crashed"] == [line["event"] for line in lines(file.read_bytes())]


def test_a_field_without_a_value_is_absent() -> None:
    """Null is a value; a field that the event does not need is not there."""
    script = "log.emit(FileKept(path='/a', watch='w', job_id=None, reason='no_gain', message='x'))"
    (line,) = lines(run(script).stdout)
    assert set(line) == {
        "timestamp", "level", "event", "schema", "path", "watch", "job_id", "reason", "message",
    }  # fmt: skip
    assert line["job_id"] is None


def test_each_line_is_out_at_once() -> None:
    """A killed process has lost no line."""
    script = f"log.configure(None)\n{SETTLED}\nos.kill(os.getpid(), signal.SIGKILL)"
    done = run(script)
    assert done.returncode == -9
    assert len(lines(done.stdout)) == 1


def test_threads_do_not_mix_their_lines(tmp_path: Path) -> None:
    """Every line of eight threads is whole, on stdout and in a rotated file."""
    file = tmp_path / "log"
    body = (
        "def work(n):\n"
        "    for i in range(200):\n"
        "        event = FileSettled(path='m' * 3000, watch='w', job_id=f'{n}', bytes=i, wait=0)\n"
        "        log.emit(event)\n"
        "ts = [threading.Thread(target=work, args=(n,)) for n in range(8)]\n"
        "[t.start() for t in ts]; [t.join() for t in ts]"
    )
    for target, read in (("None", None), (repr(str(file)), file)):
        done = run(f"log.configure({target})\n{body}")
        found = lines(read.read_bytes() if read else done.stdout)
        assert len({(line["job_id"], line["bytes"]) for line in found}) == 1600


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_costs_lines_only() -> None:
    """The process goes on, and says nothing on stderr."""
    with open("/dev/full", "wb") as full:
        done = run(
            f"{SETTLED}\nprint('alive', file=sys.stderr)",
            capture_output=False,
            stdout=full,
            stderr=subprocess.PIPE,
        )
    assert (done.returncode, done.stderr) == (0, b"alive\n")


def test_a_reader_that_leaves_costs_lines_only() -> None:
    """The daemon does not stop because its log has no reader any more."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = run(
            f"{SETTLED}\n{SETTLED}\nprint('alive', file=sys.stderr)",
            capture_output=False,
            stdout=writing,
            stderr=subprocess.PIPE,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"alive\n")


def test_without_a_stdout_nothing_else_is_written_to(tmp_path: Path) -> None:
    """A file that happens to be opened as descriptor 1 gets no log line."""
    ledger = tmp_path / "ledger"
    script = (
        "import os, sys\n"
        f"fd = os.open({str(ledger)!r}, os.O_WRONLY | os.O_CREAT)\nassert fd == 1\n"
        f"{IMPORTS}log.configure(None)\n{SETTLED}\n"
    )
    subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" -c "$1" >&-', sys.executable, script],
        check=True,
        timeout=PATIENCE,
    )
    assert ledger.read_bytes() == b""


def test_a_file_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    """At the start, with its path: a person would look for the log in vain."""
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file/lensd\.log"):
        log.configure(str(tmp_path / "file/lensd.log"))


def test_the_daemons_log_is_light() -> None:
    """Neither torch nor pydantic come with it."""
    script = "print(sorted({'torch', 'pydantic', 'jsonschema'} & set(sys.modules)))"
    assert run(script).stdout == b"[]\n"
