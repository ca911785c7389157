"""Compute the numbers of a log line again from the two files, without lensd's code.

It uses float64 with QR of the factors and an SVD (lensd uses Gram matrices). Run it from the top of
the tree: `python -m bench.confirm BEFORE AFTER LINE.json`, where LINE.json has the file.compressed
line. It prints logged and computed numbers side by side, and exits with 1 if any differ.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from bench.before_after import sha256

# Of kohya, peft, and diffusers before peft.
NAMINGS = (
    (".lora_down.weight", ".lora_up.weight"),
    (".lora_A.weight", ".lora_B.weight"),
    ("_lora.down.weight", "_lora.up.weight"),
)


class Pair(NamedTuple):
    """One module of both files. The scale is multiplied into up, so that delta = up @ down."""

    up: Tensor  # [out, r] float64
    down: Tensor  # [r, in]
    new_up: Tensor  # [out, k]
    new_down: Tensor  # [k, in]
    step: float | None  # of int8 elements, for float factors with the file's alpha; None: floats
    stored_energy: float  # sum of squares of the float factors that the int8 elements represent
    is_float8: bool


class Computed(NamedTuple):
    """The fields of a file.compressed line that can be computed from the files alone."""

    modules: int
    rank_in: dict[str, float]
    rank_out: dict[str, float]
    energy_min: float
    energy_overall: float
    delta_error: float
    delta_error_max: float
    delta_snr_db: float | None  # of the quantization; None for floats
    # The next three are None for float8: the files do not have the factors before the rounding.
    mse: float | None  # the expected value when rounding to the nearest: step^2 / 12
    mae: float | None  # the expected value: step / 4
    snr_db: float | None
    sha256_in: str
    sha256_out: str
    bytes_in: int
    bytes_out: int


def compute(before: Path, after: Path) -> Computed:
    """Compute all fields, module by module. Raises SystemExit for a file in another naming."""
    ranks, energies, errors, kept = [], [], [], []
    count = squared = absolute = signal = 0.0
    in_8_bits, noise = 0.0, 0.0  # of the delta weights of modules in 8 bits
    for pair in pairs(before, after):
        rank = pair.new_down.shape[0]
        left, values, right = svd(pair.up, pair.down)
        best = left[:, :rank] * values[:rank], right[:rank]
        ranks.append((pair.down.shape[0], rank))
        energies.append(float(values.square().sum()))
        kept.append(float(values[:rank].square().sum()))
        errors.append(distance(pair.up, pair.down, pair.new_up, pair.new_down))
        if pair.step or pair.is_float8:
            in_8_bits += kept[-1]
            noise += distance(*best, pair.new_up, pair.new_down)
        if pair.step:
            elements = pair.new_down.numel() + pair.new_up.numel()
            count += elements
            squared += elements * pair.step**2 / 12
            absolute += elements * pair.step / 4
            signal += pair.stored_energy
    if not ranks:
        raise SystemExit(f"{before}: no modules in the naming of kohya, peft or old diffusers")
    total = sum(energies)
    shares = [k / e for k, e in zip(kept, energies, strict=True) if e]
    worst = [d / e for d, e in zip(errors, energies, strict=True) if e]
    return Computed(
        modules=len(ranks),
        rank_in=spread([r for r, _ in ranks]),
        rank_out=spread([k for _, k in ranks]),
        energy_min=min(shares),
        energy_overall=sum(kept) / total,
        delta_error=math.sqrt(sum(errors) / total),
        delta_error_max=math.sqrt(max(worst)),
        delta_snr_db=10 * math.log10(in_8_bits / noise) if noise else None,
        mse=squared / count if count else None,
        mae=absolute / count if count else None,
        snr_db=10 * math.log10(signal / squared) if count else None,
        sha256_in=sha256(before),
        sha256_out=sha256(after),
        bytes_in=before.stat().st_size,
        bytes_out=after.stat().st_size,
    )


def pairs(before: Path, after: Path) -> Iterator[Pair]:
    """Yield every module of both files. Raises KeyError if `after` lacks one."""
    with safe_open(before, framework="pt") as old, safe_open(after, framework="pt") as new:
        keys = set(new.keys())
        file_alpha = (new.metadata() or {}).get("lensd.alpha", "none")
        for key in sorted(old.keys()):
            for down, up in NAMINGS:
                if not key.endswith(down):
                    continue
                name = key.removesuffix(down)
                alpha = new.get_tensor(name + ".alpha") if name + ".alpha" in keys else None
                stored = new.get_tensor(name + down)
                step, energy = None, 0.0
                if stored.dtype == torch.int8 and alpha is not None:
                    float_alpha = stored.shape[0] if file_alpha == "none" else float(file_alpha)
                    step = math.sqrt(float(alpha) / float_alpha)
                    integers = (stored, new.get_tensor(name + up))
                    energy = sum(float(i.double().square().sum()) for i in integers) * step**2
                both = *factors(old, name, down, up), *factors(new, name, down, up)
                yield Pair(*both, step, energy, stored.dtype == torch.float8_e4m3fn)


def factors(file: Any, name: str, down: str, up: str) -> tuple[Tensor, Tensor]:
    low = file.get_tensor(name + down).double().flatten(1)
    high = file.get_tensor(name + up).double().flatten(1)
    has_alpha = name + ".alpha" in file.keys()  # noqa: SIM118  safe_open is no mapping
    alpha = float(file.get_tensor(name + ".alpha")) if has_alpha else low.shape[0]
    return high * (alpha / low.shape[0]), low


def svd(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return U [out, r], s [r], V^T [r, in] of up @ down."""
    left, core = torch.linalg.qr(up)
    right, other = torch.linalg.qr(down.T)
    u, s, v = torch.linalg.svd(core @ other.T)
    return left @ u, s, v @ right.T


def distance(up: Tensor, down: Tensor, other_up: Tensor, other_down: Tensor) -> float:
    """Return ||up @ down - other_up @ other_down||_F^2.

    It is computed by QR of the joined factors, which has no cancellation.
    """
    core = torch.linalg.qr(torch.cat([up, -other_up], 1), mode="r").R
    other = torch.linalg.qr(torch.cat([down, other_down]).T, mode="r").R
    return float((core @ other.T).square().sum())


def spread(ranks: Sequence[int]) -> dict[str, float]:
    return {"min": min(ranks), "median": median(ranks), "max": max(ranks)}


def differences(line: Mapping[str, Any], computed: Computed) -> list[tuple[str, Any, Any, bool]]:
    """Return (field, logged, computed, whether they agree) for every field."""
    energies: dict[str, Any] = {
        "energy_min": line["energy_retained"]["min"],
        "energy_overall": line["energy_retained"]["overall"],
    }
    tolerance = {
        "mse": 0.03,
        "mae": 0.03,
        "snr_db": 0.01,
        "delta_snr_db": 1e-3,
        "delta_error": 1e-5,
    }
    rows = []
    float8 = ("mse", "mae", "snr_db") if line.get("encodings", {}).get("float8") else ()
    for field, value in computed._asdict().items():
        if field in float8:
            continue
        logged = energies.get(field, line.get(field))
        rows.append((field, logged, value, _agree(logged, value, tolerance.get(field, 1e-5))))
    return rows


def _agree(logged: Any, value: Any, tolerance: float) -> bool:
    if isinstance(value, float) and isinstance(logged, float):
        return math.isclose(logged, value, rel_tol=tolerance)
    return bool(logged == value)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.confirm")
    for name in ("before", "after", "line"):
        parser.add_argument(name, type=Path, metavar=name.upper())
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = differences(json.loads(given.line.read_text()), compute(given.before, given.after))
    for field, logged, value, agrees in rows:
        print(f"{'ok ' if agrees else 'OFF'} {field:16} {logged!s:>66} {value!s:>66}")
    return 0 if all(agrees for *_, agrees in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
