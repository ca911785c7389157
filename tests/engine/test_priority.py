"""lensd.engine.priority in real processes, also where the kernel forbids a change."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

SHOW = """
import ctypes, json, os, sys, threading
from lensd.engine.priority import IOPRIO_SET, lower_priority
{before}
lower_priority(int(sys.argv[1]))
import platform
number = IOPRIO_SET[platform.machine()] + 1  # that of ioprio_get
seen = []
look = lambda: seen.append(ctypes.CDLL(None).syscall(number, 1, 0))
thread = threading.Thread(target=look)
thread.start(), thread.join()
score = int(open("/proc/self/oom_score_adj").read())
print(json.dumps([os.getpriority(os.PRIO_PROCESS, 0), seen[0], score]))
"""
# ioprio_set and setpriority fail with EPERM, as under `~@resources` in a systemd unit.
FORBID = """
import struct
def refuse(numbers):
    steps = [struct.pack("HBBI", 0x20, 0, 0, 0)]
    for number in numbers:
        steps += [struct.pack("HBBI", 0x15, 0, 1, number), struct.pack("HBBI", 6, 0, 0, 0x50001)]
    steps.append(struct.pack("HBBI", 6, 0, 0, 0x7FFF0000))
    code = ctypes.create_string_buffer(b"".join(steps))
    filters = struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(code))
    program = ctypes.create_string_buffer(filters)
    libc = ctypes.CDLL(None)
    assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0
refuse([251, 141])
"""

Show = Callable[..., list[Any]]
pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64"), reason="not a machine whose calls are known"
)


def _show(nice: int, before: str = "") -> list[Any]:
    script = SHOW.replace("{before}", before)
    done = subprocess.run(
        [sys.executable, "-c", script, str(nice)], capture_output=True, text=True, check=True
    )
    found: list[Any] = json.loads(done.stdout)
    return found


def _base() -> list[int]:
    with open("/proc/self/oom_score_adj", encoding="ascii") as file:
        return [int(subprocess.check_output(["nice"])), int(file.read())]


def test_nice_lowers_the_priority_at_processor_and_disk() -> None:
    """Threads that start afterwards inherit it, and the score for out of memory is raised."""
    nice, score = _base()
    assert _show(7) == [min(19, nice + 7), (2 << 13) | 7, max(score, 500)]


def test_nice_0_does_not_change_the_disk_priority() -> None:
    """Only the score for out of memory is raised."""
    nice, score = _base()
    plain = subprocess.check_output(
        [sys.executable, "-c", SHOW.replace("{before}", "lower_priority = lambda _: None"), "0"],
        text=True,
    )
    assert _show(0) == [nice, json.loads(plain)[1], max(score, 500)]


def test_a_higher_score_stays() -> None:
    """A service manager may have set it for all of lensd."""
    assert _show(0, 'open("/proc/self/oom_score_adj", "w").write("777")')[2] == 777


@pytest.mark.skipif(platform.machine() != "x86_64", reason="its system calls' numbers")
def test_a_forbidden_change_is_no_error() -> None:
    """The process keeps its priorities, and continues."""
    nice, score = _base()
    assert _show(7, FORBID)[0::2] == [nice, max(score, 500)]
