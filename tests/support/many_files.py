"""A log as a home server has it after months: thousands of files of real models, made up but true
to lensd's schema. Run with `python -m tests.support.many_files FILES OUT` to write one.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import random
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from lensd import __version__
from lensd.lora.blocks import Block, block_of, in_model
from lensd.lora.curve import STEPS
from lensd.store.identity import Identity
from lensd.store.ledger import Columns, Ledger, Outcome
from tests.support.architectures import Module, sd15
from tests.support.lora_file import Plan
from tests.support.sdxl_flux import flux_kohya, flux_peft, sdxl_kohya

Line = dict[str, Any]

# Fields of the log's lines that the rows of `lensd batch` lack.
DAEMON_ONLY = {
    "level", "schema", "watch", "job_id", "archive_method", "archive_path", "lease", "publish",
}  # fmt: skip
FIRST = dt.datetime(2026, 5, 2, 19, 30, tzinfo=dt.UTC)
WORDS = (
    "ink", "watercolor", "portrait", "neon", "film", "grain", "studio", "pixel", "anime", "comic",
    "clay", "paper", "gothic", "forest", "harbor", "retro", "detail", "lighting", "soft", "line",
)  # fmt: skip
OTHERS = {
    "no_gain": ("kept", "compressing would save 1.2%, less than `min_saving` (5%)"),
    "checkpoint": ("skipped", "the file is a whole model; move it to the folder of checkpoints"),
    "unsupported_adapter": ("skipped", "the file is a LoKr adapter, which lensd leaves alone"),
    "truncated": ("skipped", "the file is shorter than its header says: download it again"),
    "not_finite": (
        "failed",
        "3 of 264 modules hold NaN or infinite weights; the file is broken: download it again",
    ),
    "worker_timeout": (
        "quarantined",
        "the worker did not finish within 1800 s, 3 times on this file; `lensd retry` tries again",
    ),
}


class Model(NamedTuple):
    """What LoRAs of one model look like: its blocks with their modules, and usual ranks."""

    family: str
    naming: str
    blocks: dict[Block, int]
    ranks: tuple[int, ...]
    bytes_per_rank: int


def models() -> list[Model]:
    return [
        _model("sd15", "kohya", sd15, (32, 64, 128), 1_180_000),
        _model("sdxl", "kohya", sdxl_kohya, (8, 16, 32, 64), 7_100_000),
        _model("flux", "kohya", flux_kohya, (4, 8, 16, 32), 9_500_000),
        _model("flux", "peft", flux_peft, (16, 32), 10_700_000),
    ]


def _model(
    family: str,
    naming: str,
    modules: Callable[[], list[Module]],
    ranks: tuple[int, ...],
    bytes_per_rank: int,
) -> Model:
    plan = Plan(modules(), naming, 4, None, "F16")
    blocks: dict[Block, int] = {}
    for module in plan.modules:
        block = block_of(plan.name(module))
        blocks[block] = blocks.get(block, 0) + 1
    return Model(
        family, naming, {b: blocks[b] for b in sorted(blocks, key=in_model)}, ranks, bytes_per_rank
    )


def lines(files: int, seed: int = 1, troubles: float = 0.05) -> Iterator[Line]:
    """The end of each file, oldest first. `troubles`: the share that was not compressed."""
    rng, kinds = random.Random(seed), models()  # noqa: S311  no secrets
    weights = (4, 5, 3, 1)
    when = FIRST
    for number in range(files):
        when += dt.timedelta(days=200 / files * rng.expovariate(1.0))
        path = _path(rng, number)
        if rng.random() < troubles:
            reason = rng.choice(list(OTHERS))
            outcome, message = OTHERS[reason]
            measures: Line = {"reason": reason, "message": message}
        else:
            outcome, measures = "compressed", _compressed(rng, rng.choices(kinds, weights)[0], path)
        head = {"timestamp": f"{when:%Y-%m-%dT%H:%M:%S.%f}Z", "level": "info"}
        about = {"path": path, "watch": "loras", "job_id": f"{rng.getrandbits(64):016x}"}
        yield {**head, "event": f"file.{outcome}", "schema": 1, **about, **measures}


def _path(rng: random.Random, number: int) -> str:
    name = "_".join(rng.sample(WORDS, rng.randint(1, 3)))
    return f"/srv/loras/{rng.choice(('style', 'people', 'places'))}/{name}_v{number}.safetensors"


def _compressed(rng: random.Random, model: Model, path: str) -> Line:
    rank = rng.choice(model.ranks)
    blocks, outs = _blocks(rng, model, rank)
    share = statistics.fmean(outs) / rank
    bytes_in = model.bytes_per_rank * rank + rng.randint(40_000, 90_000)
    mode, error = rng.choices(("ultra", "rank"), (8, 1))[0], rng.lognormvariate(-2.5, 0.12)
    bytes_out = int(bytes_in * share * (0.51 if mode == "ultra" else 1.0))
    spread = {"min": 1, "median": statistics.median(outs), "max": int(max(outs))}
    work = bytes_in / 130e6 * rng.uniform(0.8, 1.6)
    return {
        "mode": mode, "family": model.family, "naming": model.naming, "dtype_in": "F16",
        "dtype_out": "I8" if mode == "ultra" else "F16", "modules": sum(model.blocks.values()),
        "rank_in": {"min": rank, "median": rank, "max": rank}, "rank_out": spread,
        "blocks": blocks, "energy_retained": {"min": 0.99, "overall": 0.9906},
        "encodings": {"int8": 264, "float": 0, "untouched": 0}, "forced_by": [],
        "float_because": {}, "untouched_because": {},
        "sha256_in": f"{rng.getrandbits(256):064x}", "bytes_in": bytes_in,
        "delta_error": error, "delta_error_max": error * 1.2, "snr_db": 38.1, "mse": 1.1e-7,
        "mae": 0.00021, "delta_snr_db": 36.2,
        "sha256_out": f"{rng.getrandbits(256):064x}", "bytes_out": bytes_out,
        "spectrum": _spectrum(rank, share), "device": "cpu",
        "seconds": {"wait": 5.1, "read": 0.1, "compute": round(work, 4), "write": 0.1,
                    "verify": 0.2, "archive": 0.001, "total": round(5.5 + work, 4)},
        "ratio": round(bytes_in / bytes_out, 4), "archive_method": "link",
        "archive_path": path.replace("/srv/loras", "/srv/lora-archive/loras"), "lease": True,
        "publish": "exchange",
    }  # fmt: skip


def _blocks(
    rng: random.Random, model: Model, rank: int
) -> tuple[dict[str, list[list[float | None]]], list[float]]:
    parts: dict[str, list[list[float | None]]] = {}
    outs: list[float] = []
    lean = rng.uniform(0.2, 0.5)
    for at, (block, modules) in enumerate(model.blocks.items()):
        wave = 1 + 0.5 * ((at * 7) % 11) / 11
        out = min(rank, max(1, round(2 * rank * lean * wave * rng.uniform(0.8, 1.2)) / 2))
        outs.append(out)
        number = None if block.number < 0 else block.number
        parts.setdefault(block.part, []).append([number, modules, rank, out])
    return parts, outs


def _spectrum(rank: int, share: float) -> Line:
    """With some 99 % of the energy in that share of the ranks."""
    squares = [math.exp(-4.6 * n / (share * rank)) + 1e-5 for n in range(rank)]
    ranks = [step for step in STEPS if step < rank] + [rank]
    return {"ranks": ranks, "energy": [round(sum(squares[:r]) / sum(squares), 5) for r in ranks]}


def write_log(path: Path, files: int, seed: int = 1, troubles: float = 0.05) -> Path:
    """The lines of so many files, as lensd writes them."""
    with path.open("w", encoding="utf-8") as file:
        for line in lines(files, seed, troubles):
            file.write(json.dumps(line) + "\n")
    return path


def write_ledger(
    state: Path, root: Path, files: int, *, different: int = 1000, seed: int = 1
) -> None:
    """A ledger as lensd leaves it after so many files below `root`, which need not be there.

    The measures repeat after `different` files, since it takes long to make them up.
    """
    state.mkdir(exist_ok=True)
    found = list(lines(different, seed))
    kinds = {end: [line for line in found if line["event"] == f"file.{end}"] for end in ENDS}
    with closing(Ledger(str(state), __version__)) as ledger, ledger.together():
        ledger.roots.add(str(root), "loras")
        made = 0
        for end, some in kinds.items():
            count = len(some) * files // len(found)
            for first in range(0, count, 1000):
                rows = [
                    _row(some[n % len(some)], made + n, end)
                    for n in range(first, min(count, first + 1000))
                ]
                ledger.files.record_all(str(root), "loras", rows)
                _set_ends(ledger, bytes(root), some, rows, first)
            made += count


def _set_ends(
    ledger: Ledger,
    root: bytes,
    some: list[Line],
    rows: list[tuple[str, Identity, Columns]],
    first: int,
) -> None:
    """Give the rows the times of their lines."""
    ends = [
        (_moment(some[(first + n) % len(some)]), root, row[0].encode())
        for n, row in enumerate(rows)
    ]
    with ledger._database.change() as db:
        db.executemany("UPDATE files SET updated = ? WHERE root = ? AND path = ?", ends)


def _moment(line: Line) -> float:
    return dt.datetime.fromisoformat(line["timestamp"]).timestamp()


ENDS = ("compressed", "kept", "skipped", "failed", "quarantined")


def _row(line: Line, number: int, end: str) -> tuple[str, Identity, Columns]:
    inside = line["path"].removeprefix("/srv/loras/").replace("_v", f"_{number}v")
    head = {"timestamp", "level", "event", "schema", "path", "watch", "job_id"}
    measures = {name: value for name, value in line.items() if name not in head}
    identity = Identity(1, number + 1, measures.get("bytes_out", 1000), 0, 0)
    columns: Columns = {"outcome": Outcome(end)}
    if end == "compressed":
        columns |= {
            "line": measures,
            "published": _moment(line),
            "bytes_in": measures["bytes_in"],
            "bytes_out": measures["bytes_out"],
            "sha256_in": f"{number:08x}{measures['sha256_in'][8:]}",
            "sha256_out": measures["sha256_out"],
            "archive_path": f"/srv/lora-archive/loras/{inside}",
        }
    else:
        columns |= {"reason": measures["reason"], "message": measures["message"]}
    return inside, identity, columns


if __name__ == "__main__":
    write_log(Path(sys.argv[2]), int(sys.argv[1]))
