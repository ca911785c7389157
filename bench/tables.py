"""Make the tables of docs/measurements.md from `bench/results/*.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).with_name("results")
COLUMNS = {
    "copy": "copy and hash",
    "analyze": "analyze",
    "rank": "rank",
    "int8": "int8",
    "ultra": "ultra",
    "busy": "ultra, busy machine",
    "qr": "QR and SVD",
    "peer": "resize_lora",
    "full": "full SVD",
}
PROCESSOR = ("copy", "analyze", "rank", "int8", "ultra", "qr", "peer", "full")


def speed() -> Iterator[str]:
    """Yield the median seconds of each file."""
    results = _read("engine.json")
    yield f"| file | MB | {' | '.join(COLUMNS.values())} |"
    yield "|---|---:" + "|---:" * len(COLUMNS) + "|"
    for name, found in results["files"].items():
        seconds = [_median(found["seconds"], row) for row in COLUMNS]
        yield f"| {name} | {found['bytes'] / 1e6:.0f} | {' | '.join(seconds)} |"
    yield ""
    yield f"Seconds, medians; {results['machine']}."


def processor() -> Iterator[str]:
    """Yield the median CPU seconds of each file, and the ratios of ultra to the references."""
    results = _read("engine.json")
    heads = [*(COLUMNS[row] for row in PROCESSOR), "ultra / QR", "ultra / resize_lora"]
    yield f"| file | {' | '.join(heads)} |"
    yield "|---" + "|---:" * len(heads) + "|"
    for name, found in results["files"].items():
        cells = [_median(found["cpu_seconds"], row) for row in PROCESSOR]
        cells += [f"{ratio(found, 'ultra', to):.2f}" for to in ("qr", "peer")]
        yield f"| {name} | {' | '.join(cells)} |"
    yield ""
    yield f"CPU seconds, medians; {results['machine']}."


def _median(found: dict[str, list[float]], row: str) -> str:
    return f"{median(found[row]):.3g}" if row in found else "-"


def ratio(found: dict[str, Any], what: str, to: str, kind: str = "cpu_seconds") -> float:
    """Return the median of the rounds' ratios."""
    pairs = zip(found[kind][what], found[kind][to], strict=what != "full")  # one round
    return median(a / b for a, b in pairs)


def savings() -> Iterator[str]:
    """Yield how many times smaller each file becomes, and the memory that the worker needs."""
    results = _read("engine.json")
    modes = ("rank", "int8", "ultra")
    yield "| file | " + " | ".join(f"`{m}`: smaller by | memory" for m in modes) + " |"
    yield "|---" + "|---:|---:" * len(modes) + "|"
    for name, found in results["files"].items():
        cells = [
            f"{found['bytes'] / found['bytes_out'][m]:.1f} | {found['mib_above_bare'][m]:.0f} MiB"
            for m in modes
        ]
        yield f"| {name} | {' | '.join(cells)} |"


def sizes() -> Iterator[str]:
    """Yield size and delta error of each file, by mode and energy."""
    rows = _read("sizes.json")["rows"]
    settings = list(dict.fromkeys((row["mode"], row["energy"]) for row in rows))
    heads = [f"`{mode}`, {energy:.4g} %" for mode, energy in ((m, 100 * e) for m, e in settings)]
    heads = [head if "int8" not in head else "`int8`" for head in heads]
    yield f"| file | before | {' | '.join(heads)} |"
    yield "|---|---:" + "|---:" * len(heads) + "|"
    for name in dict.fromkeys(row["file"] for row in rows):
        found = [row for row in rows if row["file"] == name]
        cells = [f"{row['bytes_out'] / 1e6:.1f} MB, {row['delta_error']:.1%}" for row in found]
        cells = [cell.replace("%", " %") for cell in cells]
        yield f"| {name} | {found[0]['bytes_in'] / 1e6:.1f} MB | {' | '.join(cells)} |"


def scale() -> Iterator[str]:
    """Yield the costs of the daemon for each number of files."""
    results = _read("scale.json")
    yield "| files | ledger | ready after | CPU of a rescan | memory, most | idle, of a core |"
    yield "|---:|---|---:|---:|---:|---:|"
    for row in results["standing"]:
        yield (
            f"| {row['files']:,} | {row['ledger']} | {row['ready_seconds']:.1f} s "
            f"| {row['rescan_cpu']:.2f} s | {row['mb_most']:.0f} MB | {row['idle_percent']:.2f} % |"
        )
    traffic = results["traffic"]
    together = traffic["together"]
    yield ""
    yield (
        f"From a file's last byte to its publication, beyond the quiet time: "
        f"{1000 * median(traffic['latencies']):.0f} ms for a small file."
    )
    yield (
        f"{together['files']} small files at once: {together['files_per_minute']:,.0f} a minute. "
        f"{results['machine']}."
    )


def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    return found


def models() -> Iterator[str]:
    """Yield what becomes of the files of all base models and namings; equal ones share a row."""
    results = _read("models.json")
    rows: dict[str, list[dict[str, Any]]] = {}
    names: dict[str, list[str]] = {}
    for table, found in results["tables"].items():
        key = json.dumps([(t["encoding"], t["forced_by"]) for t in found["targets"].values()])
        rows.setdefault(key, []).append(found)
        names.setdefault(key, []).append(table)
    targets = list(next(iter(results["tables"].values()))["targets"])
    yield f"| files | {' | '.join(targets)} |"
    yield "|---" * (len(targets) + 1) + "|"
    for key, members in rows.items():
        cells = [_outcome(members, name) for name in targets]
        yield f"| {', '.join(names[key])} | {' | '.join(cells)} |"
    yield ""
    yield f"({len(results['tables'])} files of rank 8; {results['machine']}.)"


def _outcome(members: list[dict[str, Any]], targets: str) -> str:
    """Encodings, the programs because of which it is not int8, and how many times smaller."""
    found = [m["targets"][targets] for m in members]
    ratios = [f"{m['bytes'] / t['bytes']:.1f}" for m, t in zip(members, found, strict=True)]
    low, high = min(ratios, key=float), max(ratios, key=float)
    smaller = low if low == high else f"{low} to {high}"
    because = f" ({', '.join(found[0]['forced_by'])})" if found[0]["forced_by"] else ""
    return f"{found[0]['encoding']}{because}: {smaller}"
