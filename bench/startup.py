"""Measure the start of the command line: `--version` and the help of each command.

Run it from the top of the tree with `python -m bench.startup`. Each call starts a new process with
its interpreter. The first calls do not count, because their files may not be cached.
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
WARM_UP_ROUNDS = 2


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
    """Return the seconds of each round."""
    command = [sys.executable, "-m", "lensd", *arguments]
    found = []
    for _ in range(WARM_UP_ROUNDS + ROUNDS):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found.append(time.perf_counter() - began)
    return found[WARM_UP_ROUNDS:]


if __name__ == "__main__":
    sys.exit(main())
