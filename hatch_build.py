"""Compile the kernels of lensd/lora while a wheel or an editable installation is built.

Where no compiler is, or it fails, a note is printed and the wheel has Python only. `python
hatch_build.py` compiles into this tree.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path(__file__).parent / "lensd" / "lora" / "_kernels"
FLAGS = (
    *("-std=gnu++17", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-ffp-contract=fast"),
    # No -ffast-math: it would assume that nothing is NaN.
    *("-fno-math-errno", "-fno-trapping-math", "-static-libgcc", "-static-libstdc++", "-Wno-psabi"),
)
AVX2 = ("-mavx2", "-mfma", "-mf16c")
AVX512 = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl")
X86 = {"avx2": AVX2, "avx512": (*AVX512, "-mprefer-vector-width=512")}
OTHERS: dict[str, tuple[str, ...]] = {"generic": ()}


class CustomBuildHook(BuildHookInterface[Any]):
    """Adds the kernels to a wheel, whose tag then names the platform."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before the files of the wheel are collected; `version` may be `editable`."""
        del version
        if compile_kernels():
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{_platform_tag()}"
            build_data["artifacts"].append("lensd/lora/_kernels/*.so")


def compile_kernels() -> bool:
    """Compile one file per instruction set; return whether that succeeded."""
    for old in FOLDER.glob("*.so"):
        old.unlink()
    compiler = _find_compiler()
    if compiler is None:
        _note("no C++ compiler was found")
        return False
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    for name, flags in (X86 if is_x86 else OTHERS).items():
        command = [compiler, *FLAGS, *flags, "kernels.cpp", "-o", f"{name}.so"]
        done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
        if done.returncode:
            _note(f"{compiler} cannot compile {name}: {done.stderr.strip()[:500]}")
            return any(FOLDER.glob("*.so"))
    return True


def _find_compiler() -> str | None:
    names = [os.environ["CXX"]] if "CXX" in os.environ else ["c++", "g++", "clang++"]
    return next((found for name in names if (found := shutil.which(name))), None)


def _platform_tag() -> str:
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")


def _note(why: str) -> None:
    print(f"lensd: {why}; it computes in Python, with the same results", file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    sys.exit(not compile_kernels())
