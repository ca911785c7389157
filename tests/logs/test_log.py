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

SETTLED = 'log.get(watch="w").info("file.settled", path="/a", job_id="1", bytes=3, wait=0.5)'


def run(script: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """A Python process of its own that logs."""
    code = f"import os, sys, threading, signal\nfrom lensd.logs import log\n{script}\n"
    options = {"capture_output": True, "timeout": 60, **options}
    return subprocess.run([sys.executable, "-c", code], check=False, **options)


def lines(raw: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in raw.decode().splitlines()]


def test_a_line_has_its_head_first_and_is_valid() -> None:
    """Time in UTC with microseconds, level, event, schema; then what was given."""
    (line,) = lines(run(f"log.configure(None)\n{SETTLED}").stdout)
    Draft202012Validator(schema.load()).validate(line)
    assert list(line)[:4] == ["timestamp", "level", "event", "schema"]
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
    """`warning` lets warnings and errors through, under their names."""
    script = "log.configure(None, 'warning')\nl = log.get()\n"
    script += "\n".join(f"l.{level}('x')" for level in ("debug", "info", "warning", "error"))
    assert ["warning", "error"] == [line["level"] for line in lines(run(script).stdout)]


def test_a_logger_follows_a_later_configure(tmp_path: Path) -> None:
    """Modules may take theirs before the configuration is read; until then it goes to stdout."""
    file = tmp_path / "log"
    script = f"l = log.get(n=1)\nl.info('a')\nlog.configure({str(file)!r})\nl.info('b')"
    done = run(script)
    assert [line["event"] for line in lines(done.stdout)] == ["a"]
    assert [(line["event"], line["n"]) for line in lines(file.read_bytes())] == [("b", 1)]


def test_each_line_is_out_at_once() -> None:
    """A killed process has lost no line."""
    script = f"log.configure(None)\n{SETTLED}\nos.kill(os.getpid(), signal.SIGKILL)"
    done = run(script)
    assert done.returncode == -9
    assert len(lines(done.stdout)) == 1


def test_an_exception_comes_with_its_traceback() -> None:
    """In `exception`, on the same line."""
    script = "try:\n    1 / 0\nexcept ZeroDivisionError:\n    log.get().exception('x')"
    (line,) = lines(run(script).stdout)
    assert line["level"] == "error"
    assert "ZeroDivisionError" in line["exception"]


def test_threads_do_not_mix_their_lines(tmp_path: Path) -> None:
    """Every line of eight threads is whole, on stdout and in a rotated file."""
    file = tmp_path / "log"
    body = (
        "def work(n):\n    l = log.get(thread=n)\n"
        "    for i in range(200): l.info('x', i=i, message='m' * 3000)\n"
        "ts = [threading.Thread(target=work, args=(n,)) for n in range(8)]\n"
        "[t.start() for t in ts]; [t.join() for t in ts]"
    )
    for target, read in (("None", None), (repr(str(file)), file)):
        done = run(f"log.configure({target})\n{body}")
        found = lines(read.read_bytes() if read else done.stdout)
        assert len({(line["thread"], line["i"]) for line in found}) == 1600


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
        f"from lensd.logs import log\nlog.configure(None)\n{SETTLED}\n"
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
    """Neither rich, torch nor pydantic come with it; rich can be imported by others afterwards."""
    script = (
        "found = {'rich', 'torch', 'pydantic', 'jsonschema'} & set(sys.modules)\n"
        "try:\n    import rich\nexcept ModuleNotFoundError as e:\n    assert e.name == 'rich', e\n"
        "print(sorted(found))"
    )
    assert run(script).stdout == b"[]\n"
