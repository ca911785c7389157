"""Measure `lensd batch` from folder to folder: the costs of a file of 151 MB, and of any file.

Run it from the top of the tree with `python -m bench.collection`. It compares two runs that differ
in their number of files, so that the start of Python and of the worker processes cancels out. CPU
seconds are of all processes. All numbers go to `bench/results/collection.json`, from which
`bench.scale_table` makes the tables of docs/scale.md.

- `large`: a LoRA for SD 1.5 of rank 128, 151 MB
- `tiny`: a LoRA of one small module, so that nothing but the work around the computation is left
- `known`: objects that an earlier run has done, so that the run lists and compares only
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from bench.memory import resident
from bench.scale import TINY
from bench.sizes import machine
from lensd.collection import rows
from lensd.collection.folder import Folder
from tests.support.realistic import small_lora, write_lora

RESULTS = Path(__file__).with_name("results") / "collection.json"
LARGE = (2, 14)  # files of the two runs
MANY = (100, 1_100)
KNOWN = 100_000
STAGES = ("fetch", "read", "compute", "write", "verify", "publish")


class Cost(NamedTuple):
    """Of one run."""

    seconds: float
    cpu_seconds: float
    mb: float  # most memory of the process itself, without the worker processes


def run(folder: Path, *arguments: str) -> Cost:
    """Compress `folder/source` to a new `folder/dest`."""
    shutil.rmtree(folder / "dest", ignore_errors=True)
    command = [sys.executable, "-m", "lensd", "batch", "source", "dest", "--min-saving", "0"]
    began = time.monotonic()
    process = subprocess.Popen([*command, *arguments], cwd=folder, stderr=subprocess.DEVNULL)
    mb = 0.0
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        with suppress(LookupError):  # it has ended
            mb = max(mb, resident(process.pid, "VmRSS") * 2**20 / 1e6)
        time.sleep(0.05)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"lensd batch ended with {process.returncode}")
    seconds = time.monotonic() - began
    return Cost(seconds, used.ru_utime + used.ru_stime, mb)


def per_file(folder: Path, original: Path, counts: tuple[int, int]) -> Cost:
    """The costs of one more file. Leaves the manifest of the larger run."""
    source = folder / "source"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir()
    found = []
    for count in counts:
        for number in range(count):
            name = source / f"{number:06}.safetensors"
            if not name.exists():
                shutil.copyfile(original, name)
        _manifest(folder).unlink(missing_ok=True)
        found.append(run(folder, "--processes", "1"))
    few, many = found
    more = counts[1] - counts[0]
    seconds, cpu = (many[n] - few[n] for n in range(2))
    return Cost(seconds / more, cpu / more, many.mb)


def _manifest(folder: Path) -> Path:
    return folder / "lensd-manifest.jsonl"


def large(folder: Path) -> dict[str, Any]:
    original = write_lora(folder / "original").path
    cost = per_file(folder, original, LARGE)
    made = [json.loads(line) for line in _manifest(folder).read_text().splitlines()]
    return {
        **cost._asdict(),
        "stages": {stage: mean(row["seconds"][stage] for row in made) for stage in STAGES},
        "sha256": hash_seconds(original),
        "bytes_in": original.stat().st_size,
        "bytes_out": made[0]["bytes_out"],
    }


def hash_seconds(path: Path) -> float:
    """CPU seconds of a sha256 of the file, which is in the page cache."""
    before = time.process_time()
    with path.open("rb") as file:
        hashlib.file_digest(file, "sha256")
    return time.process_time() - before


def tiny(folder: Path) -> dict[str, Any]:
    original = small_lora(folder / "original", modules=TINY).path
    cost = per_file(folder, original, MANY)
    size = _manifest(folder).stat().st_size
    return {**cost._asdict(), "row_bytes": size / MANY[1]}


def known(folder: Path) -> dict[str, Any]:
    """Rows for all objects are made up, so that a run has nothing to do."""
    source, manifest = folder / "source", _manifest(folder)
    original = small_lora(folder / "original", modules=TINY).path
    source.mkdir()
    shutil.copyfile(original, source / "first.safetensors")
    run(folder)
    row = json.loads(manifest.read_text())
    for number in range(KNOWN):
        (source / f"{number:06}.safetensors").touch()
    place = Folder(str(source))
    with manifest.open("w") as file:
        for item in place.find():
            version = {"source_size": item.version.size, "source_mtime": item.version.mtime}
            row |= {"path": rows.path_of(place.url, item)} | version
            file.write(json.dumps(row) + "\n")
    return {"files": KNOWN, **run(folder)._asdict()}


def main() -> int:
    results: dict[str, Any] = {"machine": machine()}
    print(results["machine"], f"load average {os.getloadavg()[0]:.1f} before", flush=True)
    for kind in (large, tiny, known):
        with tempfile.TemporaryDirectory(prefix="lensd-bench-") as folder:
            results[kind.__name__] = kind(Path(folder))
        print(kind.__name__, json.dumps(results[kind.__name__], indent=1), flush=True)
    RESULTS.write_text(json.dumps(results, indent=1) + os.linesep, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
