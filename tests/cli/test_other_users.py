"""Commands of a user who is not that of the daemon: a member of its group, and a stranger.

Here the user is root without the right to pass over modes, and the state folder is another's.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lensd.store.identity import Identity
from lensd.store.ledger import Ledger
from tests.support.home_server import HomeServer
from tests.support.limits import PATIENCE
from tests.support.marks import WITHOUT_OVERRIDE, needs_program, needs_root

pytestmark = [needs_root, needs_program("setpriv"), pytest.mark.lengthy]

OTHER = 12345
READING = (["status"], ["restore", "--list"])
CHANGING = (["pause"], ["resume"])


def without_rights(server: HomeServer, *words: str) -> subprocess.CompletedProcess[str]:
    command = [*WITHOUT_OVERRIDE, sys.executable, "-m", "lensd", *words, "-c", str(server.config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


def give_away(server: HomeServer, *, group: int) -> None:
    """Let the state folder belong to another user, as after a start of the service."""
    for path in (server.state, *server.state.iterdir()):
        os.chown(path, OTHER, group)
    server.state.chmod(0o750)


@pytest.fixture
def server(tmp_path: Path) -> HomeServer:
    """A server whose ledger knows a file; no lensd runs."""
    server = HomeServer(tmp_path)
    server.configure(keep_days=1)
    server.state.mkdir()
    (server.state / "lock").touch(0o640)
    path = server.loras / "style.safetensors"
    path.touch()
    ledger = Ledger(str(server.state), "1.0")
    identity = Identity.of(path.stat())
    ledger.files.record_baseline(str(server.loras), "loras", [(path.name, identity)])
    ledger.close()
    return server


def test_a_stranger_is_not_told_that_lensd_has_not_run(server: HomeServer) -> None:
    """Whether there is a ledger in a folder that one may not enter cannot be seen: exit code 5."""
    give_away(server, group=OTHER)
    for words in READING:
        done = without_rights(server, *words)
        assert (5, "") == (done.returncode, done.stdout), words
        assert "you may not read the ledger" in done.stderr
        assert "member of the group" in done.stderr
    for words in CHANGING:
        done = without_rights(server, *words)
        assert 5 == done.returncode, words
        assert "as the user that owns it" in done.stderr


def test_a_ledger_that_may_not_be_read(server: HomeServer) -> None:
    """In a folder that one may enter: the remedy is the same."""
    give_away(server, group=OTHER)
    server.state.chmod(0o755)
    done = without_rights(server, "status")
    assert (5, "") == (done.returncode, done.stdout)
    assert "you may not read the ledger" in done.stderr


@pytest.mark.slow
def test_a_member_of_the_group_reads_without_a_daemon(server: HomeServer) -> None:
    """SQLite may make no files in the state folder; the ledger is not said to be incomplete."""
    give_away(server, group=0)
    found = [without_rights(server, *words) for words in READING]
    assert {"ledger.sqlite3", "lock"} == {path.name for path in server.state.iterdir()}
    assert "1 baseline" in found[0].stdout
    for path in (server.state, *server.state.iterdir()):
        os.chown(path, 0, 0)
    expected = [without_rights(server, *words) for words in READING]
    assert {0} == {done.returncode for done in found}
    assert [done.stdout for done in expected] == [done.stdout for done in found]
    assert [done.stderr for done in expected] == [done.stderr for done in found]


def test_a_read_only_state_folder_after_a_kill(server: HomeServer) -> None:
    """What the ledger's WAL holds is never left out of the answer."""
    ledger = Ledger(str(server.state), "1.0")
    other = server.loras / "other.safetensors"
    other.touch()
    ledger.files.record_baseline(
        str(server.loras), "loras", [(other.name, Identity.of(other.stat()))]
    )
    files = {path: path.read_bytes() for path in server.state.iterdir()}
    ledger.close()
    for path, content in files.items():  # as a kill leaves them
        path.write_bytes(content)
        path.chmod(0o640)
    give_away(server, group=0)
    assert "2 baseline" in without_rights(server, "status").stdout


@pytest.mark.slow
def test_a_member_of_the_group_sends_requests(server: HomeServer) -> None:
    """The daemon does what they say; the lock, which the group may only read, is no hindrance."""
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        give_away(server, group=0)
        for words in CHANGING:
            done = without_rights(server, *words)
            assert 0 == done.returncode, done.stderr
        daemon.wait_for_event("daemon.paused")
        daemon.wait_for_event("daemon.resumed")
        done = without_rights(server, "status")
        assert f"daemon: running, process {daemon.process.pid}" in done.stdout
