"""How long `lensd compress` takes for a real file and how much memory, per mode.

Run from the top of the tree with `make bench`, or `python -m bench.speed [FILE]`. Without FILE the
144 MiB Stable Diffusion 1.5 LoRA of the demo is written first.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

MODES = ("rank", "int8", "ultra")


class Cost(NamedTuple):
    """What one command took: wall and processor seconds, and the most memory of one process."""

    status: int
    wall: float
    cpu: float
    peak_mib: float


def cost(command: Sequence[str]) -> Cost:
    """Run a command to its end; wait4 also counts what its own children, waited for, took.

    The kernel's memory figure is never below this process's own at the start: keep it small.
    """
    started = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    cpu = usage.ru_utime + usage.ru_stime
    return Cost(process.returncode, wall, cpu, usage.ru_maxrss / 1024)


def main(arguments: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="lensd-bench-") as folder:
        source = Path(arguments[0]) if arguments else _written(Path(folder, "sd15.safetensors"))
        size = source.stat().st_size
        print(f"{source.name}: {size:,} bytes")
        print(f"{'mode':8}{'seconds':>9}{'cpu':>9}{'peak MiB':>10}{'bytes':>15}{'smaller':>9}")
        for mode in MODES:
            out = Path(folder, f"{mode}.safetensors")
            used = cost(_command(source, out, mode))
            if used.status:
                print(f"lensd compress --mode {mode} ended with {used.status}", file=sys.stderr)
                return 1
            after = out.stat().st_size
            figures = f"{used.wall:9.2f}{used.cpu:9.2f}{used.peak_mib:10.0f}{after:15,}"
            print(f"{mode:8}{figures}{size / after:8.1f}x")
    return 0


def _written(path: Path) -> Path:
    # in a process of its own, since torch here would hide what small commands take
    subprocess.run([sys.executable, "-m", "tests.support.realistic", str(path)], check=True)
    return path


def _command(source: Path, out: Path, mode: str) -> list[str]:
    lensd = [sys.executable, "-m", "lensd", "compress", str(source)]
    return [*lensd, "-o", str(out), "--mode", mode]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
