"""What a worker process and the daemon say to each other."""

from __future__ import annotations

import os
import subprocess

from lensd.worker import isolated


def test_a_worker_ends_without_a_word_if_the_daemon_ends_before_its_start() -> None:
    """Nobody reads its first message: no traceback reaches the terminal of the command."""
    reader, writer = os.pipe()
    os.close(reader)
    command = isolated.command("lensd.engine")
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=writer, stderr=subprocess.PIPE, text=True,
        cwd="/", env=isolated.environment(),
    ) as worker:  # fmt: skip
        os.close(writer)
        assert worker.stderr is not None
        assert worker.stderr.read() == ""
    assert worker.returncode == 0
