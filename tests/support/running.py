"""The real daemon as a child process, with its log lines as they come."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import jsonschema
from jsonschema import Draft202012Validator

from lensd.report import schema
from tests.support.limits import PATIENCE
from tests.support.prepared import Started

Line = dict[str, Any]

# After one of these nothing more comes for that version of a file.
ENDS = {
    f"file.{end}" for end in ("compressed", "analyzed", "kept", "skipped", "failed", "quarantined")
}


class DaemonError(Exception):
    """The daemon ended, or a line did not come in time. Shows its last lines and its stderr."""


def parse_line(text: str) -> Line:
    """One line of the log. Raises DaemonError when it is not valid under the package's schema."""
    line: Line = json.loads(text)
    try:
        _validator(line["event"]).validate(line)
    except (jsonschema.ValidationError, KeyError) as error:
        raise DaemonError(f"a log line is not valid: {text}\n{error}") from None
    return line


def whole_lines(text: str) -> list[str]:
    """The lines of a log that is being written: the last one may be half there."""
    return text[: text.rfind("\n") + 1].splitlines()


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


@cache
def _validator(event: str) -> Draft202012Validator:
    """Made once an event. tests/report/test_schema.py checks the schema itself."""
    return Draft202012Validator(schema.of_event(event))


class RunningDaemon:
    """`lensd run -c CONFIG` for the length of a `with` block.

    `lines` are the log lines up to the last one that a test waited for, and after the block all of
    them; each is valid under the package's schema. The end of the block stops the daemon with
    SIGTERM, and with SIGKILL if it does not end. `prefix` is a command that runs lensd, `env` is
    added to its environment. `forked`: without the time of a start (tests/support/prepared.py).
    """

    def __init__(
        self,
        config: Path,
        stderr: Path,
        *,
        prefix: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        forked: bool = False,
    ) -> None:
        self.config = config
        self.lines: list[Line] = []
        self._stderr = stderr
        self._prefix = prefix
        self._env = env
        self._forked = forked
        self._fresh: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        self.process = self._start()
        # a thread, so that a wait ends in time even while the pipe is silent
        self._reader = threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True)
        self._reader.start()
        return self

    def _start(self) -> subprocess.Popen[str] | Started:
        words = ["run", "-c", str(self.config)]
        env = {**os.environ, **(self._env or {})}
        with self._stderr.open("ab") as stderr:
            if self._forked:
                return Started(words, stderr, env)
            return subprocess.Popen(
                [*self._prefix, sys.executable, "-m", "lensd", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                encoding="utf-8",
                env=env,
            )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        hung = False
        try:
            self.stop()
        except subprocess.TimeoutExpired:
            hung = True
            self.kill()
        self._reader.join()
        if self.process.stdout:
            self.process.stdout.close()
        while (text := self._fresh.get()) is not None:
            self.lines.append(parse_line(text))
        self._fresh.put(None)  # a test may end the block before its end
        if hung and error is None:
            raise self._error("SIGTERM did not end it")

    def stop(self, seconds: float = PATIENCE) -> int:
        """Send SIGTERM; return the exit status. Raises subprocess.TimeoutExpired."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def kill(self) -> None:
        """Send SIGKILL: the daemon cannot clean up."""
        self.process.kill()
        self.process.wait()

    def wait_for(
        self, wanted: Callable[[Line], bool], what: str, seconds: float = PATIENCE
    ) -> Line:
        """The next line for which `wanted` is true. Raises DaemonError."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                text = self._fresh.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise self._error(f"no {what} within {seconds:g} s") from None
            if text is None:
                self._fresh.put(None)  # for the next call
                raise self._error(f"it ended ({self.process.wait()}) before any {what}")
            self.lines.append(parse_line(text))
            if wanted(self.lines[-1]):
                return self.lines[-1]

    def wait_for_event(self, event: str, seconds: float = PATIENCE) -> Line:
        return self.wait_for(lambda line: line["event"] == event, event, seconds)

    def wait_for_file(self, path: Path, *events: str, seconds: float = PATIENCE) -> Line:
        """The next line about `path`: one of `events`, or one that ends its processing."""
        wanted = set(events) or ENDS
        return self.wait_for(
            lambda line: line["event"] in wanted and line["path"] == str(path),
            f"{' or '.join(events) or 'end'} of {path}",
            seconds,
        )

    def wait_for_files(self, paths: Iterable[Path], *events: str) -> dict[Path, Line]:
        """For each path the next line as in `wait_for_file`, in whatever order they come."""
        wanted, missing = set(events) or ENDS, set(paths)
        found: dict[Path, Line] = {}
        while missing:
            line = self.wait_for(
                lambda line: line["event"] in wanted and Path(line["path"]) in missing,
                f"{' or '.join(events) or 'end'} of {sorted(missing)}",
            )
            found[Path(line["path"])] = line
            missing.remove(Path(line["path"]))
        return found

    def of(self, path: Path) -> list[str]:
        """The events about `path` so far, in order."""
        return [line["event"] for line in self.lines if line.get("path") == str(path)]

    def _read(self, stdout: IO[str]) -> None:
        for text in stdout:
            self._fresh.put(text)
        self._fresh.put(None)

    def _error(self, message: str) -> DaemonError:
        log = "".join(f"{json.dumps(line)}\n" for line in self.lines[-20:])
        stderr = self._stderr.read_text(errors="replace")[-8000:]
        return DaemonError(f"the daemon: {message}\n--- its log\n{log}--- its stderr\n{stderr}")
