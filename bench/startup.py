"""How long the command line takes to answer without work: `--version` and each help.

Run from the top of the tree with `python -m bench.startup`. Each call is a process of its own, a
whole interpreter included; the first calls, which may find cold files, do not count.
"""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median

from bench.sizes import machine
from lensd.cli import COMMANDS

LIMIT = 0.15  # seconds
ROUNDS = 11
COLD = 2


def main() -> int:
    print(f"{machine()}; seconds, median of {ROUNDS} (fastest to slowest)")
    slow = 0
    for arguments in (["--version"], ["--help"], *([verb, "--help"] for verb in COMMANDS)):
        times = sorted(seconds(arguments))
        slow += median(times) > LIMIT
        spread = f"({times[0]:.3f} to {times[-1]:.3f})"
        print(f"lensd {' '.join(arguments):<18} {median(times):.3f} {spread}")
    print(f"limit: {LIMIT} s; {slow} above it")
    return 1 if slow else 0


def seconds(arguments: list[str]) -> list[float]:
    """Of each round."""
    command = [sys.executable, "-m", "lensd", *arguments]
    found = []
    for _ in range(COLD + ROUNDS):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found.append(time.perf_counter() - began)
    return found[COLD:]


if __name__ == "__main__":
    sys.exit(main())
