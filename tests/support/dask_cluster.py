"""A real Dask cluster on the loopback interface: a scheduler and workers, by Dask's own commands.

A worker ends with its scheduler, so that a service manager has to start it again: here a thread
does, as systemd or Kubernetes do.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from tests.support.home_server import wait_until

DASK = (sys.executable, "-m", "dask")


class DaskCluster:
    """For the length of a `with` block. `options` of both commands, such as those of TLS.

    `worker_options` are those of each worker; there are as many workers as elements.
    """

    def __init__(
        self,
        top: Path,
        worker_options: Sequence[Sequence[str]] = ((),),
        *,
        options: Sequence[str] = (),
        protocol: str = "tcp",
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.top = top
        self.port = free_port()
        self.address = f"{protocol}://127.0.0.1:{self.port}"
        self.log = top / "dask.log"
        self._options = options
        self._protocol = protocol
        self._worker_options = worker_options
        self._env = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
        self._ending = threading.Event()
        self._scheduler: subprocess.Popen[bytes] | None = None
        self._workers: list[subprocess.Popen[bytes]] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self.top.mkdir(parents=True, exist_ok=True)
        self.start_scheduler()
        for number, options in enumerate(self._worker_options):
            thread = threading.Thread(target=self._keep_worker, args=(number, options), daemon=True)
            thread.start()
            self._threads.append(thread)
        wait_until(lambda: self.registered() >= len(self._worker_options), "workers of Dask")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ending.set()
        for process in [*self._workers, *filter(None, [self._scheduler])]:
            kill_all(process.pid)
            process.wait()
        for thread in self._threads:
            thread.join()

    def start_scheduler(self) -> None:
        """At the same address each time."""
        host = ("--protocol", self._protocol, "--host", "127.0.0.1", "--port", str(self.port))
        self._scheduler = self._start("scheduler", *host)

    def kill_scheduler(self) -> None:
        """Its workers end, and start again until there is a scheduler."""
        assert self._scheduler is not None
        self._scheduler.kill()
        self._scheduler.wait()

    def worker_processes(self) -> list[psutil.Process]:
        """The processes that run tasks, which are children of the nannies."""
        found = []
        for nanny in list(self._workers):
            try:
                children = psutil.Process(nanny.pid).children()
                found += [p for p in children if "spawn_main" in " ".join(p.cmdline())]
            except psutil.NoSuchProcess:
                continue
        return found

    def kill_a_worker(self, rng: random.Random) -> None:
        """Its nanny starts another one."""
        found = self.worker_processes()
        if found:
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended by itself
                rng.choice(found).kill()

    def processor_seconds(self) -> float:
        """Of all its processes that run now, with the worker processes of lensd."""
        assert self._scheduler is not None
        seconds = 0.0
        for each in (self._scheduler, *self._workers):
            process = psutil.Process(each.pid)
            for part in (process, *process.children(recursive=True)):
                used = part.cpu_times()
                seconds += used.user + used.system
        return seconds

    def registered(self) -> int:
        """How many workers have registered with the scheduler since the start."""
        return self.log.read_bytes().count(b"Registered to:") if self.log.exists() else 0

    def start_worker(self, number: int, *options: str) -> subprocess.Popen[bytes]:
        """One that nothing starts again when it ends."""
        folder = ("--local-directory", str(self.top / f"worker{number}"), "--nthreads", "1")
        process = self._start("worker", self.address, *folder, *options)
        self._workers.append(process)
        return process

    def _keep_worker(self, number: int, options: Sequence[str]) -> None:
        while not self._ending.is_set():
            process = self.start_worker(number, *options)
            if self._ending.is_set():
                kill_all(process.pid)
            process.wait()
            self._workers.remove(process)
            self._ending.wait(0.5)

    def _start(self, role: str, *arguments: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*DASK, role, *arguments, "--no-dashboard", *self._options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.top,
                env=self._env,
            )


def kill_all(pid: int) -> None:
    """A process and its children; some may end by themselves meanwhile."""
    try:
        process = psutil.Process(pid)
        found = [*process.children(recursive=True), process]
    except psutil.NoSuchProcess:
        return
    for each in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
