"""The kernels under AddressSanitizer and UBSan."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from lensd.lora._kernels import loading
from tests.support.marks import needs_program

DRIVER = Path(__file__).with_name("sanitized.cpp")
SANITIZERS = (
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-g",
    "-O1",
    "-Wno-psabi",
)
AVX2 = ("-mavx2", "-mfma", "-mf16c")
AVX512 = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl")
SETS = {"generic": (), "avx2": AVX2, "avx512": AVX512}


@pytest.mark.slow
@needs_program("g++")
@pytest.mark.parametrize("name", SETS)
def test_no_kernel_leaves_its_memory(name: str, tmp_path: Path) -> None:
    """With random shapes, bits and layouts, for every instruction set that this machine has."""
    capability = torch.backends.cpu.get_cpu_capability()
    if name not in (*loading.USABLE.get(capability, ()), "generic"):
        pytest.skip(f"this machine has no {name}")
    program = tmp_path / "sanitized"
    command = ["g++", "-std=gnu++17", *SANITIZERS, *SETS[name], str(DRIVER), "-o", str(program)]
    subprocess.run(command, check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"
