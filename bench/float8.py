"""Compare the error of lensd's float8 with that of the plain cast, and its CPU time with int8's.

Run it from the top of the tree with `python -m bench.float8 [FILE...]`. Without FILE it writes a
Stable Diffusion 1.5 LoRA of rank 128 in two namings and an SDXL LoRA of rank 32 first, and the
numbers to `bench/results/float8.json`. Every module is truncated to the rank that has 99 % of its
energy. The plain cast rounds the factors of mode `rank`, whose alpha is the file's own. CPU seconds
are those of `lensd compress`, user and system, the lowest of three runs in turn.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.sizes import RECIPES, Recipe, machine, sources
from lensd.engine.passes import Engine
from lensd.engine.reader import Source
from lensd.engine.task import no_progress
from lensd.lora import compress, fidelity, float8
from lensd.lora.parameters import Parameters
from lensd.lora.plan import Findings, ModulePlan, Plan
from lensd.lora.planning import plan

RESULTS = Path(__file__).with_name("results") / "float8.json"
MEASURED = (*RECIPES[:2], Recipe("SD 1.5, peft, rank 128", None, "peft", 128, None, "F16", 24.0))
TARGETS = ("diffusers",)
RUNS = 3


def main(arguments: Sequence[str]) -> int:
    torch.set_num_threads(1)
    found: dict[str, Any] = {"machine": machine(), "files": {}}
    print(found["machine"])
    with tempfile.TemporaryDirectory(prefix="lensd-bench-") as folder:
        for name, path in sources(arguments, Path(folder), MEASURED):
            found["files"][name] = numbers = measure(path, Path(folder, "out.safetensors"))
            print(f"{name}: {json.dumps(numbers)}", flush=True)
    if not arguments:
        RESULTS.write_text(json.dumps(found, indent=1) + os.linesep, encoding="utf-8")
    return 0


def measure(path: Path, out: Path) -> dict[str, Any]:
    """Return medians over the modules stored in float8, and what `lensd compress` costs."""
    float8_errors, plain_errors = zip(*errors(path), strict=True)
    options = {
        "rank": ("--mode", "rank"),
        "int8": ("--mode", "ultra"),
        "float8": ("--mode", "ultra", "--targets", ",".join(TARGETS)),
    }
    runs = {name: [run(path, out, *o) for _ in range(RUNS)] for name, o in options.items()}
    return {
        "modules": len(float8_errors),
        "median_error": round(median(float8_errors), 5),
        "median_error_of_the_plain_cast": round(median(plain_errors), 5),
        "bytes": {name: many[0][0]["bytes_out"] for name, many in runs.items()},
        "delta_error": {name: round(many[0][0]["delta_error"], 5) for name, many in runs.items()},
        "encodings": {name: many[0][0]["encodings"] for name, many in runs.items()},
        "cpu_seconds": {name: round(min(s for _, s in many), 2) for name, many in runs.items()},
    }


def errors(path: Path) -> Iterator[tuple[float, float]]:
    """Yield each module's relative error from rounding alone: lensd's, and the plain cast's."""
    with Source.open(str(path)) as source:
        readings = Engine(source, "cpu", no_progress).first_pass(Parameters(targets=TARGETS))

        def planned(mode: str) -> Plan:
            p = Parameters(mode=mode, targets=TARGETS)
            return plan(source.layout, source.specs, readings, p, Findings())

        for m, in_floats in zip(planned("ultra").modules, planned("rank").modules, strict=True):
            if m.encoding == "F8_E4M3" and m.energy:
                yield of_module(source, m, in_floats)


def of_module(source: Source, m: ModulePlan, in_floats: ModulePlan) -> tuple[float, float]:
    up, down = source.factors(m.module)
    ours = compress.reduce(m, up, down)
    floats = compress.reduce(replace(in_floats, encoding="F32", same=False), up, down)
    pair = floats.up.mT.contiguous().float(), floats.down.float()
    noise = fidelity.squared_rounding(*pair, *map(float8.nearest, pair)) * floats.scale**2
    signal = ours.squared_signal
    return (ours.squared_error / signal) ** 0.5, (noise / signal) ** 0.5


def run(path: Path, out: Path, *options: str) -> tuple[dict[str, Any], float]:
    """Return the measures of `lensd compress --json` and its CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "lensd", "compress", str(path), "-o", str(out), *options]
    numbers: dict[str, Any] = json.loads(subprocess.check_output([*command, "--force", "--json"]))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return numbers, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
