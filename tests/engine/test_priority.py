"""The worker gives way: seen in real processes, also where it is forbidden."""

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
from lensd.engine.priority import IOPRIO_SET, give_way
{before}
give_way(int(sys.argv[1]))
import platform
number = IOPRIO_SET[platform.machine()] + 1  # ioprio_get stands beside it
seen = []
look = lambda: seen.append(ctypes.CDLL(None).syscall(number, 1, 0))
thread = threading.Thread(target=look)
thread.start(), thread.join()
score = int(open("/proc/self/oom_score_adj").read())
print(json.dumps([os.getpriority(os.PRIO_PROCESS, 0), seen[0], score]))
"""
# Every ioprio_set and setpriority is answered with EPERM (as `~@resources` of a systemd unit does).
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


def test_it_goes_last_at_processor_and_disk_and_first_out_of_memory() -> None:
    """Threads that it starts afterwards as well."""
    nice, score = _base()
    assert _show(7) == [min(19, nice + 7), (2 << 13) | 7, max(score, 500)]


def test_nice_0_leaves_the_disk_alone() -> None:
    """Who wants the work done soon gets it; memory is another matter."""
    nice, score = _base()
    plain = subprocess.check_output(
        [sys.executable, "-c", SHOW.replace("{before}", "give_way = lambda _: None"), "0"],
        text=True,
    )
    assert _show(0) == [nice, json.loads(plain)[1], max(score, 500)]


def test_a_higher_score_stays() -> None:
    """Somebody set it for lensd as a whole."""
    assert _show(0, 'open("/proc/self/oom_score_adj", "w").write("777")')[2] == 777


@pytest.mark.skipif(platform.machine() != "x86_64", reason="its system calls' numbers")
def test_what_is_forbidden_is_left() -> None:
    """It computes nevertheless."""
    nice, score = _base()
    assert _show(7, FORBID)[0::2] == [nice, max(score, 500)]
