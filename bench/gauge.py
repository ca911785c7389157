"""Compare the noise of int8 with and without the rotation of the factors, at the same size.

Run it from the top of the tree with `python -m bench.gauge [FILE]`. Without FILE it writes the
144 MiB Stable Diffusion 1.5 LoRA of the demo first. Every module is truncated to the rank that has
99 % of its energy, then quantized both ways.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import torch

from bench.sizes import machine
from lensd.engine.reader import Source
from lensd.lora import fidelity, int8, rank, spectrum
from lensd.lora.int8 import Quantized
from lensd.lora.reading import flatten
from tests.support.realistic import write_lora

ENERGY = 0.99


def main(arguments: Sequence[str]) -> int:
    torch.set_num_threads(1)
    print(machine())
    with tempfile.TemporaryDirectory(prefix="lensd-bench-") as folder:
        path = Path(arguments[0]) if arguments else Path(folder, "sd15.safetensors")
        if not arguments:
            write_lora(path)
        plain, rotated = zip(*noises(path), strict=True)
    print(f"{len(plain)} modules of {path.name}, median signal-to-noise ratio of the delta weight")
    print(f"without rotation:      {median(plain):5.1f} dB")
    print(f"with the best rotation: {median(rotated):4.1f} dB")
    return 0


def noises(path: Path) -> Iterator[tuple[float, float]]:
    """Yield the signal-to-noise ratios in dB of each module: without a rotation, and lensd's."""
    with Source.open(str(path)) as source:
        for module in source.layout.modules:
            up, down = flatten(*source.factors(module))
            core = spectrum.core(up, down)
            left, right = spectrum.truncation(core, rank.smallest_rank(core.values, ENERGY))
            factors = up.double() @ left, right @ down.double()
            if float(core.values[0]) > 0:
                yield decibels(int8.plain(*factors)), decibels(int8.quantize(*factors))


def decibels(q: Quantized) -> float:
    signal = fidelity.squared_norm(q.exact_up, q.exact_down)
    return fidelity.decibels(signal, q.squared_noise) or float("inf")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
