"""Show what becomes of a LoRA of every base model and naming, by the programs that must load it.

Run it from the top of the tree with `python -m bench.models FOLDER [TABLE...]`. FOLDER holds
`make_lora.py`, which writes a LoRA file with the names and shapes of a table, and `index.json`, the
list of the tables. Each file has rank 8 and a spectrum that falls fast. The command reads its
spectra, plans the output of mode ultra for each set of targets, and adds encodings, bytes and
`forced_by` to `bench/results/models.json`; a table that is there is not made again.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench.sizes import machine
from lensd.engine import plans
from lensd.engine.measures import Original
from lensd.engine.passes import Engine
from lensd.engine.reader import Source
from lensd.engine.task import no_progress
from lensd.lora.metadata import Origin
from lensd.lora.parameters import Parameters
from lensd.lora.plan import Findings, Plan

RESULTS = Path(__file__).with_name("results") / "models.json"
RECIPE = ("--rank", "8", "--spectrum", "exp", "--effective-rank", "3", "--quiet")
TARGETS: dict[str, tuple[str, ...]] = {
    "default": Parameters().targets,
    "diffusers": ("diffusers",),
    "comfyui, invokeai": ("comfyui", "invokeai"),
    "comfyui, diffusers": ("comfyui", "diffusers"),
    "comfyui-bypass": ("comfyui-bypass",),
}
NAMES = {"I8": "int8", "F8_E4M3": "float8"}


def main(arguments: Sequence[str]) -> int:
    if not arguments:
        print("usage: python -m bench.models FOLDER [TABLE...]", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    folder = Path(arguments[0])
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"tables": {}}
    found["machine"] = machine()
    for table in arguments[1:] or json.loads((folder / "index.json").read_text()):
        if table not in found["tables"]:
            found["tables"][table] = measure(folder, table)
            print(table, json.dumps(found["tables"][table]), flush=True)
            unfinished = RESULTS.with_suffix(".unfinished")
            unfinished.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            unfinished.replace(RESULTS)  # a kill leaves the tables that are done
    return 0


def measure(folder: Path, table: str) -> dict[str, Any]:
    """Return the bytes of a table's file, and what each set of targets makes of it."""
    architecture, _, naming = table.partition(".")
    with tempfile.TemporaryDirectory(prefix="lensd-bench-") as temporary:
        path = Path(temporary, "lora.safetensors")
        command = (sys.executable, folder / "make_lora.py", *RECIPE)
        subprocess.run([*command, "--arch", architecture, "--naming", naming, path], check=True)
        with Source.open(str(path)) as source:
            p = Parameters()
            readings = Engine(source, "cpu", no_progress).first_pass(p)
            origin = Origin("0" * 64, source.identity.size, path.name, "0", p.mode, p.energy)
            original = Original(origin, readings)
            return {
                "family": source.layout.family,
                "bytes": source.identity.size,
                "targets": {
                    name: describe(source, original, replace(p, targets=targets))
                    for name, targets in TARGETS.items()
                },
            }


def describe(source: Source, original: Original, p: Parameters) -> dict[str, Any]:
    """Return the encodings, the bytes and the programs because of which int8 is not used."""
    chosen = plans.choose(source, original, p, Findings())
    return {
        "encoding": encoding(chosen),
        "bytes": plans.OutputHeader.of(source, chosen, original.origin).file_bytes(),
        "forced_by": list(chosen.forced_by),
    }


def encoding(chosen: Plan) -> str:
    """Return the encodings of the modules, the most frequent one first."""
    counts = Counter(NAMES.get(m.encoding, "16 bits") for m in chosen.modules)
    return ", ".join(name for name, _ in counts.most_common())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
