"""The slow tests as `.ci/run` runs them: `python -m tests.support.slow_run`, with pytest's options.

A test that fails runs three times more, alone, and has to pass each time. See decision 57.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

FAILED = Path(".pytest_cache/v/cache/lastfailed")  # pytest writes it at its end
MOST = 2  # tests that fail in one run and get another chance
TIMES = 3


def main(options: Sequence[str]) -> int:
    """Run all slow tests. Returns the exit code: 0 if all have passed, now or when repeated."""
    FAILED.unlink(missing_ok=True)
    code = run(options)
    if code != 1:  # all have passed, or pytest itself had a fault
        return code
    failed = list(json.loads(FAILED.read_text()))
    if not 0 < len(failed) <= MOST:
        print(f"slow tests: {len(failed)} failed; up to {MOST} would run again", flush=True)
        return code
    for _ in range(TIMES):
        if again := run([*options, *failed]):
            return again
    for test in failed:
        print(f"slow tests: PASSED ONLY WHEN REPEATED, {TIMES} times: {test}", flush=True)
    return 0


def run(options: Sequence[str]) -> int:
    command = [sys.executable, "-m", "pytest", "-m", "slow", *options]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
