"""Measure the start of the command line: `--version`, the help of each command, and `compress`.

Run it from the top of the tree with `python -m bench.startup`. Each call starts a new process with
its interpreter. The first calls do not count, because their files may not be cached. Of `compress`
it prints processor time (user and system) too, which other processes affect far less, and which its
limit is about.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from statistics import median

from bench.sizes import machine
from lensd.cli import COMMANDS

LIMIT = 0.15  # seconds
COMPRESS_LIMIT = 1.6  # CPU seconds until `lensd compress` reads a file
PARTS = ("lensd.cli.compress", "numpy", "torch", "safetensors", "lensd.engine.task")
# Imports the modules of its arguments in turn. Prints the seconds and the CPU seconds of the start
# of the interpreter and of each import; the first number is the time of the clock after the start.
IMPORT = """
import gc, importlib, json, sys, time
gc.disable()  # as lensd does until torch is imported
found = [(time.monotonic(), time.process_time())]
for name in sys.argv[1:]:
    began, used = time.monotonic(), time.process_time()
    importlib.import_module(name)
    found.append((time.monotonic() - began, time.process_time() - used))
print(json.dumps(found))
"""
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
    whole = print_parts()
    print(f"limit of lensd compress: {COMPRESS_LIMIT} CPU s")
    return 1 if slow or whole > COMPRESS_LIMIT else 0


def print_parts() -> float:
    """Print what it takes until `lensd compress` reads a file, by part; return the CPU seconds."""
    command = [sys.executable, "-c", IMPORT, *PARTS]
    rounds = []
    for _ in range(WARM_UP_ROUNDS + ROUNDS):
        began = time.monotonic()
        (started, used), *imports = json.loads(subprocess.check_output(command))
        rounds.append([(started - began, used), *imports])
    whole = 0.0
    for name, costs in zip(
        ("interpreter", *PARTS), zip(*rounds[WARM_UP_ROUNDS:], strict=True), strict=True
    ):
        wall, cpu = (median(numbers) for numbers in zip(*costs, strict=True))
        print(f"lensd compress: {name:<18} {wall:.3f} s {cpu:8.3f} CPU s")
        whole += cpu
    print(f"lensd compress: {'all of these':<18} {whole:18.3f} CPU s")
    return whole


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
