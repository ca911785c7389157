"""Measure the memory of the daemon and its worker: idle, during a job, and after it.

Run it from the top of the tree with `python -m bench.memory`. A real daemon compresses the 144 MiB
Stable Diffusion 1.5 LoRA of the demo; the numbers are those of the kernel for its processes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from bench.sizes import machine
from tests.support.home_server import HomeServer
from tests.support.running import RunningDaemon

MIB = 1024.0


def main() -> int:
    print(machine())
    with tempfile.TemporaryDirectory(prefix="lensd-bench-") as folder:
        server = HomeServer(Path(folder))
        server.configure(worker={"idle_exit": 1})
        source = server.elsewhere / "sd15.safetensors"
        # In another process, so that torch is not loaded here.
        command = [sys.executable, "-m", "tests.support.realistic", str(source)]
        subprocess.run(command, check=True)
        with server.daemon() as daemon:
            watch(daemon, server, source)
    return 0


def watch(daemon: RunningDaemon, server: HomeServer, source: Path) -> None:
    """Print a line at each stage of one file."""
    daemon.wait_for_event("daemon.ready", 30)
    pid = daemon.process.pid
    print(f"daemon, waiting:             {resident(pid, 'VmRSS'):7.1f} MiB")
    target = server.move_in(source)
    worker = daemon.wait_for_event("worker.started", 180)["pid"]
    daemon.wait_for_file(target, seconds=300)
    print(f"worker, most during the job: {resident(worker, 'VmHWM'):7.1f} MiB")
    print(f"worker, after the job:       {resident(worker, 'VmRSS'):7.1f} MiB")
    daemon.wait_for_event("worker.stopped", 60)
    print("worker, after idle_exit:         0.0 MiB (it has ended)")
    print(f"daemon, after the job:       {resident(pid, 'VmRSS'):7.1f} MiB")
    print(f"daemon, most of all:         {resident(pid, 'VmHWM'):7.1f} MiB")


def resident(pid: int, field: str) -> float:
    """Return VmRSS (now), VmHWM (the most so far) or another field of a process in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) / MIB
    raise LookupError(f"the kernel has no {field} for process {pid}")


if __name__ == "__main__":
    sys.exit(main())
