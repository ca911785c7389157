"""Modules just below the limits of `lensd.lora.cost`: `python -m tests.fuzz.limits [RANK...]`.

Of ranks beyond those that people use it makes the largest modules that are not refused: with equal
sides, and with one side as long as the rank. Their factors need most: they are float64, or cancel
each other. The real worker compresses each in every mode, with energies that keep all ranks and
that do not. Prints the most seconds of processor time, and MiB above an ordinary file.
"""

from __future__ import annotations

import sys
import tempfile
from bisect import bisect
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from lensd.lora import cost
from lensd.lora.layout import Module, read_layout
from lensd.lora.parameters import Parameters
from lensd.lora.tensor_spec import TensorSpec
from tests.fuzz import bombs
from tests.fuzz.bombs import BrokenError, Case, Chance, Runner, Tensors

RANKS = (513, 800, 1024, 1400, 1512)
MODES = ("rank", "int8", "ultra")


class Shape(NamedTuple):
    """Rows and columns of a delta weight, and the rank of its factors."""

    out: int
    width: int
    rank: int

    @property
    def module(self) -> Module:
        up, down = (self.out, self.rank), (self.rank, self.width)
        shapes = {"a.lora_up.weight": up, "a.lora_down.weight": down}
        return read_layout({k: TensorSpec("F64", s) for k, s in shapes.items()}).modules[0]

    @property
    def affordable(self) -> bool:
        found, limit = cost.of_module(self.module), cost.limit_of(self.module)
        return found.work <= limit.work and found.memory <= limit.memory

    def files(self) -> Iterator[Tensors]:
        out, width, rank = self
        chance = Chance(1)
        up, down = bombs.noise(chance, out, rank), bombs.noise(chance, rank, width)
        for pair in (
            bombs.pair_of(up, down, torch.float64),
            bombs.cancelling_pair(chance, out, width, rank),
        ):
            yield {f"lora_unet_a{end}": t for end, t in pair.items()}


def largest(rank: int) -> tuple[Shape, Shape]:
    """The largest with equal sides, and with one side as long as the rank."""
    sides = range(rank, 2**20)
    equal = bisect(sides, 0, key=lambda n: not Shape(n, n, rank).affordable) - 1
    other = bisect(sides, 0, key=lambda n: not Shape(rank, n, rank).affordable) - 1
    return Shape(sides[equal], sides[equal], rank), Shape(rank, sides[other], rank)


def measure(runner: Runner, shape: Shape, mode: str) -> Case:
    """The most that any file of this shape takes in a mode. Raises BrokenError."""
    cases = [
        runner.run(str(shape), tensors, Parameters(mode=mode, energy=energy))
        for tensors in shape.files()
        for energy in ((0.99,) if mode == "int8" else (0.99, 1.0))
    ]
    return Case(
        str(shape), cases[0].end, max(c.seconds for c in cases), max(c.memory for c in cases)
    )


def table(ranks: Iterable[int]) -> Iterator[str]:
    """Yield the rows of a table. Raises BrokenError for a case that costs too much."""
    yield f"| rows, columns, rank | predicted | {' | '.join(f'`{m}`' for m in MODES)} |"
    yield "|---|---:|---:|---:|---:|"
    with tempfile.TemporaryDirectory(prefix="lensd-limits-") as folder:
        runner = Runner(Path(folder))
        for shape in (shape for rank in ranks for shape in sorted({*largest(rank)})):
            cases = [measure(runner, shape, mode) for mode in MODES]
            cells = [f"{c.memory / 2**20:.0f} MiB, {c.seconds:.0f} s" for c in cases]
            predicted = f"{cost.of_module(shape.module).memory / 2**20:.0f} MiB"
            yield f"| {' x '.join(map(str, shape))} | {predicted} | {' | '.join(cells)} |"
            if not all(c.cheap and c.end == "compressed" for c in cases):
                raise BrokenError(f"{shape}: {', '.join(map(str, cases))}")
        runner.stop()


if __name__ == "__main__":
    for line in table([int(rank) for rank in sys.argv[1:]] or RANKS):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
