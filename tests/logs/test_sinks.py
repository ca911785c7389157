"""Where lines go, on a real disk."""

from __future__ import annotations

import gzip
import os
import resource
import signal
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from lensd.logs.sinks import FileSink, StreamSink
from tests.docs import markdown
from tests.docs.rendering import REPOSITORY
from tests.support.marks import needs_program


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_file_has_its_mode_whatever_the_umask(tmp_path: Path) -> None:
    """Also after rotation; a missing folder is made."""
    before = os.umask(0o077)
    try:
        sink = FileSink(str(tmp_path / "new/log"), 0o664, max_bytes=20)
        for _ in range(3):
            sink.write(b"x" * 15)
    finally:
        os.umask(before)
    assert names(tmp_path / "new") == ["log", "log.1", "log.2"]
    for file in (tmp_path / "new").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o664


def test_rotation_keeps_the_newest_lines_whole(tmp_path: Path) -> None:
    """No file grows past the limit, the oldest goes, none is cut."""
    sink = FileSink(str(tmp_path / "log"), 0o640, max_bytes=20, kept=2)
    for number in range(10):
        sink.write(b"line %d" % number)
    found = [(tmp_path / name).read_text() for name in ("log.2", "log.1", "log")]
    assert found == ["line 4\nline 5\n", "line 6\nline 7\n", "line 8\nline 9\n"]
    assert len(names(tmp_path)) == 3


def test_a_line_larger_than_the_limit_is_still_written(tmp_path: Path) -> None:
    """In a file of its own, without an empty one before it."""
    sink = FileSink(str(tmp_path / "log"), 0o640, max_bytes=5)
    sink.write(b"0123456789")
    assert names(tmp_path) == ["log"]
    assert (tmp_path / "log").read_bytes() == b"0123456789\n"


def test_a_restart_appends(tmp_path: Path) -> None:
    """What is in the log stays, and so does a mode that somebody gave it."""
    file = tmp_path / "log"
    file.write_text("old\n")
    file.chmod(0o600)
    FileSink(str(file), 0o644).write(b"new")
    assert file.read_text() == "old\nnew\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_it_follows_logrotate_and_removal(tmp_path: Path) -> None:
    """When the file is moved or removed, the next line begins a new one."""
    file = tmp_path / "log"
    sink = FileSink(str(file), 0o640)
    sink.write(b"a")
    file.rename(tmp_path / "moved")
    sink.write(b"b")
    assert file.read_text() == "b\n"
    file.unlink()
    sink.write(b"c")
    assert file.read_text() == "c\n"
    assert (tmp_path / "moved").read_text() == "a\n"


def test_it_goes_on_after_copytruncate(tmp_path: Path) -> None:
    """Cut off under its hands, it appends at the new end and leaves no hole."""
    file = tmp_path / "log"
    sink = FileSink(str(file), 0o640, max_bytes=30)
    sink.write(b"a" * 20)
    (tmp_path / "copy").write_bytes(file.read_bytes())
    os.truncate(file, 0)
    sink.write(b"b" * 20)  # the size that counts for its own rotation is the new one
    assert file.read_bytes() == b"b" * 20 + b"\n"
    assert names(tmp_path) == ["copy", "log"]


@pytest.mark.lengthy
@needs_program("logrotate")
@pytest.mark.parametrize("way", ["", "copytruncate"])
def test_logrotate_needs_no_signal(tmp_path: Path, way: str) -> None:
    """With what docs/monitoring.md shows: every line is in one of the files, in order."""
    file = tmp_path / "log/lensd.log"
    sink = FileSink(str(file), 0o640)
    page = REPOSITORY / "docs/monitoring.md"
    [shown] = (
        b for b in markdown.blocks(page.read_text(encoding="utf-8")) if "rotate 30" in b.text
    )
    text = shown.text.replace("/var/log/lensd/lensd.log", str(file)).replace("}", f"    {way}\n}}")
    rules = tmp_path / "rules"
    rules.write_text(text)
    rules.chmod(0o644)
    for number in range(4):
        sink.write(b"line %d" % number)
        command = ["logrotate", "--force", "--state", str(tmp_path / "state"), str(rules)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    sink.write(b"line 4")
    found = [file.read_text(), file.with_name("lensd.log.1").read_text()]
    found += [
        gzip.decompress(file.with_name(f"lensd.log.{n}.gz").read_bytes()).decode()
        for n in (2, 3, 4)
    ]
    assert found == [f"line {number}\n" for number in (4, 3, 2, 1, 0)]


def test_a_folder_that_vanishes_costs_lines_only(tmp_path: Path) -> None:
    """The log is back when the folder is."""
    file = tmp_path / "logs/log"
    sink = FileSink(str(file), 0o640)
    file.parent.rename(tmp_path / "away")
    sink.write(b"lost")
    (tmp_path / "away").rename(file.parent)
    sink.write(b"back")
    assert file.read_text() == "back\n"


def test_a_disk_without_space_leaves_no_half_line(tmp_path: Path) -> None:
    """A line that does not fit is taken back; a shorter one is written afterwards."""
    file = tmp_path / "log"
    sink = FileSink(str(file), 0o640)
    sink.write(b"first")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    try:
        sink.write(b"x" * 100)
        sink.write(b"second")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert file.read_text() == "first\nsecond\n"


def test_a_slow_reader_gets_every_line_whole() -> None:
    """A pipe that is full and does not block is waited for."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    sink = StreamSink(writing)
    lines = [bytes([97 + number % 26]) * 3000 for number in range(100)]

    def write() -> None:
        for line in lines:
            sink.write(line)
        os.close(writing)

    thread = threading.Thread(target=write)
    thread.start()
    with os.fdopen(reading, "rb") as pipe:
        found = pipe.read().splitlines()
    thread.join()
    assert found == lines


@pytest.mark.parametrize("descriptor", [None])
def test_no_descriptor_takes_every_line(descriptor: int | None) -> None:
    """And writes none."""
    StreamSink(descriptor).write(b"x")


def test_after_a_torn_line_the_next_begins_anew(tmp_path: Path) -> None:
    """On stdout a half line cannot be taken back: only that one is lost."""
    file = tmp_path / "out"
    with file.open("wb") as out:
        sink = StreamSink(out.fileno())
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
        try:
            sink.write(b"x" * 100)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)
        sink.write(b"whole")
    assert file.read_bytes() == b"x" * 10 + b"\nwhole\n"
