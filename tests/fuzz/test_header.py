"""Hostile headers and layouts: refused with a reason, quickly, and in little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz.header import MEMORY_BYTES, SECONDS
from tests.support import suites

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def _python(*arguments: str) -> str:
    """In a process of its own, whose memory is then only that."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.fault("hostile header")
def test_fuzzed_headers(tell: Callable[[str], None]) -> None:
    """No crash, none slower than a second, at most 300 MB, none taken that the library refuses."""
    number = 100_000 if suites.FULL else 5_000
    tell(_python("-m", "tests.fuzz.header", str(number)).strip())


READ = """
import json, os, sys, time
from tests.fuzz.header import look, peak_bytes
fd = os.open(sys.argv[1], os.O_RDONLY)
began = time.process_time()
end = look(fd)
print(json.dumps([end, time.process_time() - began, peak_bytes()]))
"""


def _file(entries: dict[str, tuple[str, list[int], int]], metadata: str = "") -> bytes:
    """Tensors of (dtype, shape, bytes), all of zeros."""
    at, header = 0, {}
    for name, (dtype, shape, size) in entries.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":"))
    if metadata:
        text = f'{{"__metadata__":{metadata},' + text[1:]
    raw = text.encode()
    return len(raw).to_bytes(8, "little") + raw + bytes(at)


def _pairs(names: list[str]) -> bytes:
    one: tuple[str, list[int], int] = ("I8", [1, 1], 1)
    return _file({f"{n}.lora_{x}.weight": one for n in names for x in ("A", "B")})


ONE: dict[str, tuple[str, list[int], int]] = {"a": ("U8", [1], 1)}

# Just inside the limits, so that all of it is read.
WORST: dict[str, Callable[[], bytes]] = {
    "16,000 pairs' tensors": lambda: _pairs([f"unet.m{n}" for n in range(8_000)]),
    "names of 240 letters": lambda: _pairs([f"{n:05}{'down_block' * 22}" for n in range(8_000)]),
    "names of dots": lambda: _pairs([f"{n:05}" + "." * 230 for n in range(8_000)]),
    "shapes of 16 dimensions": lambda: _file({f"t{n}": ("U8", [1] * 16, 1) for n in range(16_000)}),
    "30 MB of metadata": lambda: _file({"a": ("U8", [1], 1)}, json.dumps({"a": "x" * 30_000_000})),
    "a name of 30 MB": lambda: _file({"down_block" * 3_000_000: ("U8", [1], 1)}),
    "30 MB of escapes": lambda: _file(ONE, '{"a":"' + "\\u00e9" * 5_000_000 + '"}'),
    "a million tensors": lambda: _file({f"t{n}": ("U8", [0], 0) for n in range(1_000_000)}),
    "100 MB of JSON": lambda: _file({"a": ("U8", [1], 1)}, '{"a":"' + "x" * 99_999_000 + '"}'),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.fault("hostile header")
@pytest.mark.parametrize("case", WORST)
def test_the_worst_headers_cost_little(
    tmp_path: Path, case: str, tell: Callable[[str], None]
) -> None:
    """Read or refused within a second and 300 MB, by header and layout together."""
    (tmp_path / "f").write_bytes(WORST[case]())
    end, seconds, peak = json.loads(_python("-c", READ, str(tmp_path / "f")))
    tell(f"{case}: {end}, {seconds:.2f} s, {peak / 1e6:.0f} MB")
    assert peak < MEMORY_BYTES
    assert seconds < SECONDS
