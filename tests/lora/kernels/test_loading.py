"""Which kernels a process uses."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from lensd.lora._kernels import loading

SCRIPT = """
import torch
from lensd.lora._kernels import calls, loading
print(loading.described(), calls.gram(torch.ones(1, 2, 3), exact=True) is not None)
"""


def described(**variables: str) -> str:
    command = [sys.executable, "-c", SCRIPT]
    return subprocess.check_output(command, env=os.environ | variables, text=True).strip()


@pytest.mark.lengthy
@pytest.mark.parametrize(
    "name",
    [
        "python",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("avx2", "avx512", "generic")),
    ],
)
def test_the_variable_chooses(name: str) -> None:
    """A name that is not compiled or does not fit the processor means Python, as `python` does."""
    found = described(LENSD_KERNELS=name)
    assert found in (f"native {name} True", "python False")
    if name == "python":
        assert found == "python False"


@pytest.mark.slow
@pytest.mark.lengthy
def test_an_older_processor_gets_older_kernels() -> None:
    """torch knows the processor; where it has no AVX2, nothing compiled for AVX2 is loaded."""
    assert described(ATEN_CPU_CAPABILITY="default") in ("native generic True", "python False")
    if (loading.FOLDER / "avx2.so").exists():
        assert described(ATEN_CPU_CAPABILITY="avx2") in ("native avx2 True", "python False")
