"""Compare the processor time of two working trees: `python -m bench.trees TREE [TREE]`.

Run it from the top of this tree. Each TREE has a `.venv` with lensd in it; with one TREE, this tree
is the second. Every round runs each task once with each tree, in turn, so that noise of the machine
affects both. The tasks are `lensd once` on a folder of small files, and `lensd compress` on files
with the shapes of real ones. It prints the medians of the seconds that all processes of a command
took (user and system), and the median of the rounds' ratios with its smallest and largest.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from shutil import copytree
from statistics import median

from bench.engine import RECIPES
from bench.sizes import machine, write

ROUNDS = 5
SMALL_FILES = 200
MODES = ("rank", "int8", "ultra")
QUICK = ("SD 1.5, kohya, rank 128", "SDXL, kohya, rank 32", "FLUX, kohya, rank 16")

Task = Callable[[Path], float]  # tree -> seconds


def lensd(tree: Path, *arguments: str) -> float:
    """Run a command of a tree's lensd; return the seconds of it and of its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [str(tree / ".venv/bin/python"), "-m", "lensd", *arguments]
    subprocess.run(command, cwd=tree, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def once(source: Path, tree: Path) -> float:
    """Compress a copy of a folder."""
    with tempfile.TemporaryDirectory(prefix="lensd-bench-", dir=source.parent) as name:
        top = Path(name)
        copytree(source, top / "loras")
        (top / "archive").mkdir()
        config = {
            "watch": [{"path": str(top / "loras"), "existing": "compress"}],
            "archive": {"path": str(top / "archive")},
            "state": {"path": str(top / "state")},
            "settle": {"quiet_seconds": 0.3, "unproven_seconds": 1.2},
            "worker": {"device": "cpu"},
        }
        (top / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
        return lensd(tree, "once", "-c", str(top / "config.yaml"))


def compress(source: Path, mode: str, tree: Path) -> float:
    """Compress one file, without changing it."""
    out = source.with_name("out.safetensors")
    arguments = ("--mode", mode, "--device", "cpu", "--force")
    return lensd(tree, "compress", str(source), "-o", str(out), *arguments)


def tasks(folder: Path, *, all_files: bool) -> Iterator[tuple[str, Task]]:
    """Yield each task with its name; a file is written when its task comes."""
    from tests.support.realistic import small_lora

    small = folder / "small"
    small.mkdir()
    for seed in range(SMALL_FILES):
        small_lora(small / f"{seed}.safetensors", seed=seed)
    yield f"{SMALL_FILES} small files", partial(once, small)
    for recipe in RECIPES:
        if all_files or recipe.name in QUICK:
            path = folder / "source.safetensors"
            write(path, recipe)
            for mode in MODES:
                yield f"{recipe.name}, {mode}", partial(compress, path, mode)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="bench.trees", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("tree", type=Path, nargs="+", help="the tree before, and the tree after")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--all", action="store_true", help="all files of bench.engine")
    given = parser.parse_args(arguments)
    before, after = ([t.resolve() for t in given.tree] + [Path.cwd()])[:2]
    print(machine())
    print("| task | before | after | ratio |\n|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory(prefix="lensd-bench-") as folder:
        for name, task in tasks(Path(folder), all_files=given.all):
            rounds = [(task(before), task(after)) for _ in range(given.rounds + 1)][1:]
            first, second = (median(column) for column in zip(*rounds, strict=True))
            ratios = sorted(b / a for a, b in rounds)
            spread = f"{median(ratios):.3f} ({ratios[0]:.3f} .. {ratios[-1]:.3f})"
            print(f"| {name} | {first:.2f} s | {second:.2f} s | {spread} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
