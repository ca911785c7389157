"""`lensd` as a process of its own, without the import of its modules at each start.

A server process of the test run has imported them; each command is a fork of it. The command has
its own folder, variables and pipes, as a started one has. `python -m tests.support.prepared FD` is
that server: it reads requests from the socket FD. With a further argument, it has imported torch as
well, and the worker process of a command is a fork of the command.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from typing import IO, Any, NoReturn, TypedDict

import lensd
from lensd.cli import main
from lensd.worker import isolated
from lensd.worker.process import ENVIRONMENT
from tests.support.limits import PATIENCE

REPOSITORY = Path(__file__).resolve().parents[2]
REQUEST_BYTES = 2**17
# These import torch or Dask, or run when they are imported.
NOT_IMPORTED = ("__main__", "engine", "lora", "collection", "worker.cluster")
WORKER = isolated.command("lensd.engine")
# Commands that may start the worker process.
COMPUTING = ("run", "once", "batch", "compress", "analyze", "compare", "expand")


class Request(TypedDict):
    """What a command gets: its words, folder and variables."""

    command: list[str]
    cwd: str
    env: dict[str, str]


def run(
    arguments: Sequence[str | Path], cwd: str | Path, env: Mapping[str, str] = os.environ
) -> subprocess.CompletedProcess[str]:
    """Run `lensd` with these arguments, as subprocess.run does with captured output.

    Raises subprocess.TimeoutExpired after PATIENCE.
    """
    command = ["lensd", *map(str, arguments)]
    pipes = [os.pipe() for _ in range(3)]  # output, errors, and process id with exit code
    _request(command, cwd, env, [write for _, write in pipes])
    for _, write in pipes:
        os.close(write)
    out, err, end = _read_all([read for read, _ in pipes], command)
    _, code = end.split()
    return subprocess.CompletedProcess(command, int(code), out.decode(), err.decode())


class Started:
    """A command that runs: the part of subprocess.Popen that tests of a daemon need."""

    def __init__(self, arguments: Sequence[str], stderr: IO[bytes], env: Mapping[str, str]) -> None:
        self.returncode: int | None = None
        self.args = ["lensd", *arguments]
        out, its_out = os.pipe()
        self._end, its_end = os.pipe()
        _request(self.args, os.getcwd(), env, [its_out, stderr.fileno(), its_end])
        os.close(its_out)
        os.close(its_end)
        self.stdout: IO[str] = os.fdopen(out, encoding="utf-8")
        self.pid = int(b"".join(iter(lambda: os.read(self._end, 1), b" ")))

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            if not select.select([self._end], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = int(os.read(self._end, 64))
            os.close(self._end)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # its exit status comes a moment later
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL unless it has ended."""
        self.send_signal(signal.SIGKILL)


def _request(
    command: list[str], cwd: str | Path, env: Mapping[str, str], fds: Sequence[int]
) -> None:
    server = _server(with_torch=command[1:2] != [] and command[1] in COMPUTING)
    request = Request(command=command, cwd=str(cwd), env=dict(env))
    socket.send_fds(server, [json.dumps(request).encode()], fds)


def _read_all(fds: Sequence[int], command: Sequence[str]) -> list[bytes]:
    """What comes out of the three pipes until their ends."""
    found = dict.fromkeys(fds, b"")
    deadline = time.monotonic() + PATIENCE
    with DefaultSelector() as selector:
        for fd in fds:
            selector.register(fd, EVENT_READ)
        while selector.get_map():
            if time.monotonic() > deadline:
                os.kill(int(found[fds[-1]]), signal.SIGKILL)
                raise subprocess.TimeoutExpired(command, PATIENCE)
            for key, _ in selector.select(1):
                chunk = os.read(key.fd, 2**16)
                found[key.fd] += chunk
                if not chunk:
                    selector.unregister(key.fd)
                    os.close(key.fd)
    return list(found.values())


@functools.cache
def _server(*, with_torch: bool) -> socket.socket:
    """The socket of a server of this test process; it ends when that closes."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with there:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.support.prepared", str(there.fileno())),
                *(["torch"] if with_torch else []),
            ],
            pass_fds=[there.fileno()],
            env=os.environ | ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd=REPOSITORY,
            start_new_session=True,
        )

    def end() -> None:
        here.close()
        process.wait()

    atexit.register(end)
    return here


def _import_all(*, with_torch: bool) -> None:
    for module in pkgutil.walk_packages(lensd.__path__, "lensd."):
        if not module.name.removeprefix("lensd.").startswith(NOT_IMPORTED):
            importlib.import_module(module.name)
    if with_torch:
        importlib.import_module("lensd.engine.task")
        importlib.import_module("lensd.worker.protocol")
        subprocess.Popen = _ForkedWorker  # type: ignore[misc,assignment]
    assert len(os.listdir("/proc/self/task")) == 1, "a fork has one thread"
    gc.freeze()  # a collection in a fork would copy the pages of all these objects


class _ForkedWorker(subprocess.Popen[Any]):
    """The worker process, as a fork of the command that starts it; other programs as they are."""

    def __init__(self, command: Any, **options: Any) -> None:
        if tuple(command[: len(WORKER)]) == WORKER:
            env = options["env"]
            options["preexec_fn"] = lambda: _run_worker(command[len(WORKER) - 1 :], env)
        super().__init__(command, **options)


def _run_worker(arguments: list[str], env: dict[str, str]) -> NoReturn:
    """What would follow the exec: the module that `isolated` runs, with the pipes of Popen."""
    code = 1
    try:
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # Popen waits for the end of its last pipe
        for number in signal.valid_signals():
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        os.environ.clear()
        os.environ.update(env)
        sys.argv = arguments
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        code = 0
    except BaseException:  # noqa: BLE001 - a started one prints it too
        traceback.print_exc()
    finally:  # the objects of the command are not this process's to end
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _serve(requests: socket.socket) -> None:
    while True:
        request, fds, _, _ = socket.recv_fds(requests, REQUEST_BYTES, 3)
        with contextlib.suppress(ChildProcessError):  # there is none
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        if not request:
            return
        if os.fork() == 0:
            requests.close()
            _wait_for_command(json.loads(request), *fds)
        for fd in fds:
            os.close(fd)


def _wait_for_command(request: Request, out: int, err: int, end: int) -> NoReturn:
    """Start the command, and write its process id and then its exit code."""
    pid = os.fork()
    if pid == 0:
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.closerange(3, 256)
        _run_command(request)
    os.close(out)
    os.close(err)
    os.write(end, f"{pid} ".encode())
    _, status = os.waitpid(pid, 0)
    os.write(end, str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _run_command(request: Request) -> NoReturn:
    """As `python -m lensd` does. The SystemExit of `main` ends the process."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    sys.path[0] = request["cwd"]
    sys.argv = request["command"]
    main(prog_name="lensd")
    raise AssertionError("main ends in SystemExit")


if __name__ == "__main__":
    _import_all(with_torch=len(sys.argv) > 2)
    with socket.socket(fileno=int(sys.argv[1])) as own_end:
        _serve(own_end)
