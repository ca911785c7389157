"""Measuring what a command costs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bench import speed

REPOSITORY = Path(speed.__file__).parent.parent

MEASURE = """
import json, sys
from bench.speed import cost
print(json.dumps(cost([sys.executable, "-c", sys.argv[1]])))
"""


def test_cost_is_that_of_the_command() -> None:
    """A command that sleeps takes wall time, not processor time; its memory is counted.

    Measured from a small process, as `make bench` does.
    """
    code = "import time; kept = b'x' * (100 << 20); time.sleep(1)"
    command = [sys.executable, "-c", MEASURE, code]
    measured = subprocess.check_output(command, text=True, cwd=REPOSITORY)
    used = speed.Cost(*json.loads(measured))
    assert used.status == 0
    assert used.wall >= 1.0
    assert used.cpu < used.wall
    assert 100 < used.peak_mib < 150


def test_a_failing_command_shows_its_status() -> None:
    assert speed.cost([sys.executable, "-c", "raise SystemExit(5)"]).status == 5
