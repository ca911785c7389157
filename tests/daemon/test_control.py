"""Requests over the control socket: the running daemon does what commands ask for."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from bench.memory import resident
from lensd.daemon.control import NAME, Server, send_request
from lensd.daemon.control_messages import (
    LONGEST_REQUEST,
    Message,
    PauseRequest,
    Progress,
    Reply,
    RestoreRequest,
    Result,
    ResumeRequest,
    decode_reply,
)
from lensd.errors import LensdError, StorageError
from lensd.store.json_lines import encode
from lensd.store.ledger.database import LEDGER
from tests.daemon.conftest import Running
from tests.support.home_server import HomeServer, Seen, wait_until
from tests.support.limits import PATIENCE


def test_restore_goes_through_the_daemon(running: Running) -> None:
    """The original is back, bit for bit; its line is in the daemon's log; it is left alone."""
    server, daemon = running
    made = server.make("back.safetensors", seed=21)
    before = Seen.of(made.path)
    path = server.move_in(made.path)
    daemon.wait_for_file(path, "file.compressed")
    done = server.lensd("restore", path)
    assert (done.returncode, done.stdout) == (0, "")
    assert f"restored {path}" in done.stderr
    assert Seen.of(path) == before
    assert daemon.wait_for_file(path, "file.restored")["sha256"] == before.sha256
    other = server.drop("other.safetensors", seed=22).path
    daemon.wait_for_file(other, "file.compressed")
    assert daemon.of(path)[-1] == "file.restored"


def test_what_the_daemon_says_against_it_comes_back(running: Running) -> None:
    """With the exit code that the command would have without it."""
    server, _ = running
    done = server.lensd("restore", server.loras / "never.safetensors")
    assert done.returncode == 2
    assert "never.safetensors" in done.stderr
    outside = server.lensd("pause", server.elsewhere)
    assert (outside.returncode, "in no watched folder" in outside.stderr) == (2, True)


def test_retry_is_taken_up_at_once(running: Running) -> None:
    """The daemon looks at the file again, without a restart."""
    server, daemon = running
    made = server.make("infinite.safetensors", seed=23).path
    made.write_bytes(made.read_bytes()[:-2] + b"\xff\x7f")
    path = server.move_in(made)
    daemon.wait_for_file(path, "file.failed")
    assert server.lensd("retry", path).returncode == 0
    assert daemon.wait_for_file(path, "file.failed")["reason"] == "not_finite"


def test_a_pause_holds_jobs_back_until_it_ends(running: Running) -> None:
    """Of a folder and of everything; `status` says so; what came meanwhile is then done."""
    server, daemon = running
    style = server.loras / "style"
    style.mkdir()
    assert server.lensd("pause", style).returncode == 0
    held = server.drop("style/held.safetensors", seed=24).path
    daemon.wait_for_file(held, "file.settled")
    free = server.drop("free.safetensors", seed=25).path
    assert daemon.wait_for_file(free)["event"] == "file.compressed"
    assert server.lensd("pause").returncode == 0
    also_held = server.drop("also.safetensors", seed=26).path
    daemon.wait_for_file(also_held, "file.settled")
    status = server.status()
    assert status["paused"] == ["everything", str(style)]
    assert {job["path"] for job in status["queued"]} == {str(held), str(also_held)}
    assert server.lensd("resume", server.loras / "free.safetensors").returncode == 2
    inner = server.lensd("resume", style)
    assert "no job begins there while this is paused: everything" in inner.stderr
    assert server.status()["paused"] == ["everything"]
    assert server.lensd("resume").returncode == 0
    assert daemon.wait_for_file(held)["event"] == "file.compressed"
    assert daemon.wait_for_file(also_held)["event"] == "file.compressed"
    assert server.status()["paused"] == []
    assert {"daemon.paused", "daemon.resumed"} <= {line["event"] for line in daemon.lines}


def test_only_owner_and_group_may_talk_to_it(running: Running) -> None:
    """The socket's rights are 0660, those of the state folder let no others in."""
    server, _ = running
    assert stat.S_IMODE((server.state / NAME).stat().st_mode) == 0o660
    assert not stat.S_IMODE(server.state.stat().st_mode) & 0o007


@contextmanager
def _connected(server: HomeServer) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as channel:
        channel.settimeout(60)
        channel.connect(str(server.state / NAME))
        yield channel


def _exchange(server: HomeServer, line: bytes) -> list[Reply]:
    """Send a line as a client does, and read all replies."""
    replies: list[Reply] = []
    with _connected(server) as channel:
        with suppress(ConnectionError):  # the daemon reads no more of a line that is too long
            channel.sendall(line)
        with channel.makefile("rb") as lines, suppress(ConnectionError):
            replies.extend(map(decode_reply, lines))
    return replies


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"{}\n",
        b'{"verb": "eat"}\n',
        b'{"verb": "restore", "x": 1}\n',
        b'{"verb": "restore", "paths": [1]}\n',
        b"\xff\n",
        b'{"verb": "restore", "paths": ["/\\u0000"]}\n',
        pytest.param(b"no end of the line", marks=pytest.mark.slow),
        b" " * (LONGEST_REQUEST + 1),
    ],
    ids=lambda line: repr(line[:32]),
)
def test_a_line_that_is_no_request_gets_an_answer(running: Running, line: bytes) -> None:
    """The exit code of a usage error and why; the next request is handled."""
    server, _ = running
    [result] = _exchange(server, line)
    assert isinstance(result, Result)
    assert result.code == 2
    assert result.error is not None
    assert [Result(0)] == _exchange(server, encode(ResumeRequest()))[1:]


def test_an_endless_line_takes_no_memory(running: Running) -> None:
    """Of ten clients that send 15 MB each, no more than the longest request is read."""
    server, daemon = running
    before = resident(daemon.process.pid, "VmHWM")
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: _exchange(server, b" " * 15_000_000), range(10)))
    assert {2} == {result.code for [result] in answers if isinstance(result, Result)}
    longest = LONGEST_REQUEST / 2**20
    assert resident(daemon.process.pid, "VmHWM") - before < 3 * 10 * longest


def test_a_client_that_sends_nothing_harms_nothing(running: Running) -> None:
    """It ends its half of the connection, or all of it."""
    server, _ = running
    with _connected(server) as channel:
        channel.shutdown(socket.SHUT_WR)
        assert channel.recv(1) == b""
    with _connected(server):
        pass
    assert [Result(0)] == _exchange(server, encode(ResumeRequest()))[1:]


def _damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_restore_reports_each_file(running: Running) -> None:
    """Path, method and count are fields; a file that cannot be restored has no method."""
    server, daemon = running
    good, bad = (server.drop(f"{n}.safetensors", seed=n).path for n in (28, 29))
    for path in (good, bad):
        daemon.wait_for_file(path, "file.compressed")
    _damage(server.archived(bad))
    replies = _exchange(server, encode(RestoreRequest(paths=(str(good), str(bad)))))
    restored, refused, _, result = replies
    assert isinstance(restored, Progress)
    assert isinstance(refused, Progress)
    assert (str(good), 1, 2, "move") == (
        restored.path, restored.done, restored.of, restored.method
    )  # fmt: skip
    assert (str(bad), 2, 2, None) == (refused.path, refused.done, refused.of, refused.method)
    assert restored.say.startswith(f"restored {good} (move from ")
    assert "damaged" in refused.say
    assert result == Result(1)


@pytest.mark.slow
def test_a_client_that_reads_nothing_stops_no_other(running: Running) -> None:
    """Its replies do not fit into the socket's buffer; the job thread goes on meanwhile."""
    server, daemon = running
    path = server.drop("unread.safetensors", seed=30).path
    daemon.wait_for_file(path, "file.compressed")
    copies = [path.with_stem(f"unread {at}") for at in range(400)]
    for copy in copies:
        shutil.copyfile(path, copy)
    _damage(server.archived(path))
    with _connected(server) as channel:
        channel.sendall(encode(RestoreRequest(paths=tuple(map(str, copies)))))
        assert channel.recv(1, socket.MSG_PEEK) == b"{"
        assert server.lensd("prune").returncode == 4
        assert len(_exchange(server, encode(RestoreRequest(paths=(str(path),))))) == 2
        with channel.makefile("rb") as lines:
            assert len(list(lines)) == 402  # 400 files, their sum, and the result


@contextmanager
def _rejecting(server: HomeServer, change: str) -> Iterator[None]:
    """The ledger of a running daemon rejects a change, which no code expects."""
    path = server.state / LEDGER
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(
            f"CREATE TRIGGER reject BEFORE {change} "
            "BEGIN SELECT RAISE(ABORT, 'rejected by a test'); END"
        )
        try:
            yield
        finally:
            db.execute("DROP TRIGGER reject")


@pytest.mark.parametrize(
    ("verb", "change"),
    [
        ("pause", "INSERT ON paused"),
        ("restore", "UPDATE ON files WHEN NEW.outcome = 'restored'"),
    ],
)
def test_a_bug_in_a_request_is_logged_and_answered(
    running: Running, verb: str, change: str
) -> None:
    """The traceback is in the log, the client ends with 3, the file is as it was, lensd goes on."""
    server, daemon = running
    path = server.drop(f"bug-{verb}.safetensors", seed=27).path
    daemon.wait_for_file(path, "file.compressed")
    before = Seen.of(path)
    with _rejecting(server, change):
        done = server.lensd(verb, path)
    assert done.returncode == 3, done.stderr
    assert f"a bug in lensd ended `lensd {verb}`" in done.stderr
    assert "rejected by a test" in done.stderr
    assert "daemon's log" in done.stderr
    line = daemon.wait_for_event("daemon.error")
    assert (line["level"], line["request"]) == ("error", verb)
    assert line["exception"].startswith("Traceback")
    assert "IntegrityError: rejected by a test" in line["exception"]
    assert before == Seen.of(path)
    assert server.lensd("restore", path).returncode == 0
    daemon.wait_for_file(path, "file.restored")


@pytest.mark.slow
def test_a_pause_outlives_the_daemon(server: HomeServer) -> None:
    """Set while none runs, kept over a restart, ended while none runs."""
    assert server.lensd("pause").returncode == 0
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        path = server.drop("style.safetensors", seed=1).path
        daemon.wait_for_file(path, "file.settled")
        daemon.stop()
    assert server.lensd("resume").returncode == 0
    with server.daemon() as daemon:
        assert daemon.wait_for_file(path)["event"] == "file.compressed"


@pytest.mark.slow
def test_a_socket_that_a_killed_daemon_left(tmp_path: Path) -> None:
    """It stands in nobody's way, also where the path is longer than an address may be."""
    deep = tmp_path / ("folder" * 20)
    deep.mkdir()
    server = HomeServer(deep)
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        daemon.kill()
    assert (server.state / NAME).exists()
    assert server.lensd("pause").returncode == 0
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        assert server.lensd("resume").returncode == 0
        assert daemon.stop() == 0
    assert not (server.state / NAME).exists()


def test_a_state_folder_that_takes_no_socket(tmp_path: Path) -> None:
    """As on a disk without inodes: an error that names the path, and no bug."""
    (tmp_path / NAME).mkdir()
    server = Server(str(tmp_path), lambda *_: 0, lambda _: None)
    with pytest.raises(StorageError, match=str(tmp_path / NAME)):
        server.start()
    server.stop()


@pytest.mark.slow
def test_a_restore_waits_for_the_job_under_way(server: HomeServer) -> None:
    """The worker is stopped in the middle of a job; the restore is done right after that job."""
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        first = server.drop("first.safetensors", seed=1).path
        pid = int(daemon.wait_for_event("worker.started")["pid"])
        daemon.wait_for_file(first, "file.compressed")
        os.kill(pid, signal.SIGSTOP)
        second = server.drop("second.safetensors", seed=2).path
        wait_until(lambda: bool(server.temporaries()), "the second job runs")
        with server.begin("restore", first) as asking:
            daemon.wait_for_file(second, "file.settled")
            assert asking.poll() is None
            os.kill(pid, signal.SIGCONT)
            assert asking.wait(PATIENCE) == 0
        daemon.wait_for_file(second, "file.compressed")
        daemon.wait_for_file(first, "file.restored")


@pytest.mark.parametrize("sent", [b"", b'{"say": "restored a"}\n', b'{"say": "restored a"}\n{"co'])
def test_a_daemon_that_ends_before_the_result(tmp_path: Path, sent: bytes) -> None:
    """The client shows what it got, and raises an error that says what to do."""
    shown: list[Message] = []
    with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor(1) as daemon:
        listener.bind(str(tmp_path / NAME))
        listener.listen()

        def end_early() -> None:
            channel, _ = listener.accept()
            with channel:
                if sent:
                    channel.recv(1)  # the rest is unread, so that the client gets a reset
                channel.sendall(sent)

        daemon.submit(end_early)
        with pytest.raises(LensdError, match="ended before it had answered `lensd pause`"):
            send_request(str(tmp_path), PauseRequest(), shown.append)
    assert ([Message("restored a")] if sent else []) == shown
