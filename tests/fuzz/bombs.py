"""Hostile LoRA files by the thousand, each with a header in order: `python -m tests.fuzz.bombs`.

`python -m tests.fuzz.bombs [NUMBER] [SEED] [FIRST]` has the real worker compress each of them. It
must end with a reason or a right result, within SECONDS of processor time and MEMORY_BYTES above
what the worker takes for an ordinary file. Says how many there were by end, the slowest and the
largest. Each file has a seed of its own, from SEED and its number: FIRST begins at a later file.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
from safetensors.torch import load_file
from torch import Tensor

from lensd.errors import Reason
from lensd.logs.events import Event, WorkerStarted
from lensd.lora.layout import Module, read_layout
from lensd.lora.parameters import Parameters
from lensd.lora.tensor_spec import ITEM_SIZE, TensorSpec
from lensd.store.identity import Identity
from lensd.worker import isolated
from lensd.worker.request import Bug, CompressRequest, CompressResult, Refused
from lensd.worker.supervisor import Worker
from lensd.worker.workers import WorkerLost
from tests.lora import making

SECONDS = 30.0
MEMORY_BYTES = 512 * 2**20
SEED = 32
LARGEST_SQUARE = 1512  # the largest that lensd.lora.cost does not refuse
CHECKED_ELEMENTS = 2**22  # of a delta weight that is formed to check a result

Chance = random.Random
NAMES = {
    torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64",
    torch.int8: "I8", torch.uint8: "U8", torch.int64: "I64", torch.float8_e4m3fn: "F8_E4M3",
}  # fmt: skip
DTYPES = (torch.float16, torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Hole(NamedTuple):
    """A tensor of zeros that takes no room on the disk."""

    dtype: str
    shape: tuple[int, ...]


Tensors = dict[str, Tensor | Hole]


class Case(NamedTuple):
    """What was asked for, and how it ended."""

    what: str
    end: str
    seconds: float  # of processor time
    memory: int  # bytes above those of an ordinary file

    @property
    def cheap(self) -> bool:
        return self.seconds <= SECONDS and self.memory <= MEMORY_BYTES

    def __str__(self) -> str:
        return f"{self.what}: {self.end}, {self.seconds:.1f} s, {self.memory / 2**20:.0f} MiB"


class Result(NamedTuple):
    """What a run had."""

    ends: Counter[str]
    slowest: Case
    largest: Case

    def __str__(self) -> str:
        ends = ", ".join(f"{count} {end}" for end, count in self.ends.most_common())
        return (
            f"{self.ends.total()} hostile files: {ends}; the slowest: {self.slowest}; the largest: "
            f"{self.largest}"
        )


class BrokenError(Exception):
    """A case that broke a rule; its file is kept."""


# Kinds of files. Each returns the tensors of one module, by the end of their keys.


def noise(chance: Chance, *shape: int, size: float = 0.02) -> Tensor:
    seed = torch.Generator().manual_seed(chance.getrandbits(40))
    return torch.randn(*shape, generator=seed) * size


def pair_of(up: Tensor, down: Tensor, dtype: torch.dtype, alpha: float = 4.0) -> Tensors:
    return {
        ".lora_up.weight": up.to(dtype),
        ".lora_down.weight": down.to(dtype),
        ".alpha": torch.tensor(alpha),
    }


def _sides(chance: Chance) -> tuple[int, int]:
    sizes = (1, 2, 3, 4, 8, 17, 64, 320)
    return chance.choice(sizes), chance.choice(sizes)


def rank_bomb(chance: Chance) -> Tensors:
    """The rank is far above both sides, or above one of them."""
    rank = chance.choice((65, 500, 1024, 4096, 8192, 16384))
    out, width = _sides(chance)
    if chance.random() < 0.2:
        width = 2048
    up, down = noise(chance, out, rank), noise(chance, rank, width)
    return pair_of(up, down, chance.choice(DTYPES), chance.choice((1.0, float(rank))))


def kernel_bomb(chance: Chance) -> Tensors:
    """The same with a kernel; three dimensions of it make a tensor of five."""
    rank, dims = chance.choice((64, 2048, 16384)), chance.choice((1, 2, 3))
    out, width = chance.choice((1, 4, 64)), chance.choice((1, 3, 4))
    up = noise(chance, out, rank, *[1] * dims)
    return pair_of(up, noise(chance, rank, width, *[3] * dims), chance.choice(DTYPES))


def dora_bomb(chance: Chance) -> Tensors:
    """A rank that must not change."""
    rank = chance.choice((64, 1024, 8192))
    out, width = _sides(chance)
    pair = pair_of(noise(chance, out, rank), noise(chance, rank, width), chance.choice(DTYPES))
    return {**pair, ".dora_scale": torch.ones(out, 1)}


def square(chance: Chance) -> Tensors:
    """All three sizes are equal. From some thousand on no machine can do it in time."""
    size = chance.choice((256, 512, 1024, LARGEST_SQUARE, 2048, 4096, 8192, 16384))
    if size > LARGEST_SQUARE:
        hole = Hole(chance.choice(("F16", "F32")), (size, size))
        return {".lora_up.weight": hole, ".lora_down.weight": hole, ".alpha": torch.tensor(4.0)}
    if chance.random() < 0.4:
        return cancelling_pair(chance, size, size, size)
    pair = (noise(chance, size, size), noise(chance, size, size))
    return pair_of(*pair, chance.choice((torch.float16, torch.float32)))


def cancelling(chance: Chance) -> Tensors:
    """Factors far larger than their product."""
    sizes = [chance.choice((4, 33, 128, 640)) for _ in range(3)]
    return cancelling_pair(chance, *sizes)


def cancelling_pair(chance: Chance, out: int, width: int, rank: int) -> Tensors:
    up, down, half = noise(chance, out, rank), noise(chance, rank, width), rank // 2
    sizes = torch.logspace(-5, 5, rank)
    up, down = up * sizes, down / sizes[:, None]
    up[:, half : 2 * half] = up[:, :half] * 1e4
    down[half : 2 * half] = down[:half] * -1e-4 + 1e-6 * noise(chance, half, width, size=1.0)
    return pair_of(up, down, torch.float32)


def wide(chance: Chance) -> Tensors:
    """A delta weight with billions of elements."""
    out, width, rank = chance.choice(
        ((65536, 65536, 16), (65536, 65536, 64), (20_000, 20_000, 128), (200_000, 200_000, 16),
         (1_000_000, 1, 4), (2, 2_000_000, 1), (1_000_000, 1_000_000, 1), (150_000, 90, 90))
    )  # fmt: skip
    return pair_of(noise(chance, out, rank), noise(chance, rank, width), torch.float16)


def tiny_numbers(chance: Chance) -> Tensors:
    """Denormal numbers."""
    dtype = chance.choice(DTYPES)
    size = chance.choice((6e-8, 1e-40, 1e-44, 1e-310))
    out, width, rank = (chance.choice((16, 96, 256)) for _ in range(3))
    up, down = (noise(chance, *s, size=1.0).double() for s in ((out, rank), (rank, width)))
    return pair_of(up * size, down * chance.choice((size, 1.0)), dtype)


def huge_numbers(chance: Chance) -> Tensors:
    """Numbers whose squares or products no float32 can hold."""
    size = chance.choice((6e4, 1e19, 1e30, 3e38, 1e200))
    out, width, rank = (chance.choice((5, 70, 130)) for _ in range(3))
    up = noise(chance, out, rank, size=1.0).clamp(-1, 1).double() * size
    down = noise(chance, rank, width, size=1.0).double() * chance.choice((1.0, 1 / size))
    return pair_of(up, down, chance.choice((torch.float32, torch.float64, torch.bfloat16)))


def not_finite(chance: Chance) -> Tensors:
    """NaN or infinity, in one place or everywhere."""
    out, width = _sides(chance)
    rank = chance.choice((4, 70, 2000))
    up, down = noise(chance, out, rank), noise(chance, rank, width)
    at = chance.choice((up, down)).view(-1)
    at[: chance.choice((1, at.numel()))] = chance.choice((math.nan, math.inf, -math.inf))
    return pair_of(up, down, chance.choice(DTYPES))


def odd_alpha(chance: Chance) -> Tensors:
    """An alpha that is huge, tiny, negative, no number, of another type, or no single number."""
    number = chance.choice((1e30, 3e38, -1e30, 1e-40, -3.0, 0.0, math.inf, math.nan))
    alphas = (
        torch.tensor(number), torch.tensor(number, dtype=torch.float64), torch.tensor([number]),
        torch.tensor(2**63 - 1), torch.tensor([1.0, 2.0]), torch.zeros(0), torch.tensor(7).char(),
    )  # fmt: skip
    rank = chance.choice((4, 16, 80))
    pair = pair_of(noise(chance, 40, rank), noise(chance, rank, 64), torch.float16)
    return {**pair, ".alpha": chance.choice(alphas)}


def empty(chance: Chance) -> Tensors:
    """Sizes of zero."""
    out, rank, width = (chance.choice((0, 0, 4)) for _ in range(3))
    return pair_of(torch.zeros(out, rank), torch.zeros(rank, width), chance.choice(DTYPES))


def constant(chance: Chance) -> Tensors:
    """Zeros, or one number everywhere, or a huge number in one place."""
    rank, size = chance.choice((8, 100, 1500)), chance.choice((30, 200))
    up, down = (torch.full(s, chance.choice((0.0, 0.0, 0.5))) for s in ((size, rank), (rank, size)))
    if chance.random() < 0.4:
        up, down = noise(chance, size, rank), noise(chance, rank, size)
        up[0, 0], down[0, 1] = 60.0, chance.choice((60.0, -6e4))
    return pair_of(up, down, chance.choice(DTYPES))


def mixed_types(chance: Chance) -> Tensors:
    """Factors of two types, among them those that are not reduced."""
    rank = chance.choice((4, 72, 3000))
    pair = pair_of(noise(chance, 48, rank), noise(chance, rank, 24), torch.float16)
    for key in (".lora_up.weight", ".lora_down.weight"):
        tensor = pair[key]
        assert isinstance(tensor, Tensor)
        pair[key] = tensor.to(chance.choice(list(NAMES)))
    return pair


def misshapen(chance: Chance) -> Tensors:
    """Numbers of dimensions or ranks that do not fit."""
    sizes = [chance.choice((1, 3, 40)) for _ in range(6)]
    ups, downs = sizes[: chance.choice((1, 2, 4))], sizes[2 : 2 + chance.choice((0, 1, 2, 4))]
    return pair_of(torch.ones(ups), torch.ones(downs), torch.float16)


KINDS: tuple[Callable[[Chance], Tensors], ...] = (
    rank_bomb, rank_bomb, rank_bomb, kernel_bomb, dora_bomb, square, cancelling, wide, tiny_numbers,
    huge_numbers, not_finite, odd_alpha, empty, constant, mixed_types, misshapen,
)  # fmt: skip


def make(chance: Chance) -> tuple[str, Tensors]:
    """One file, and what it is called here."""
    if chance.random() < 0.03:
        return _many(chance)
    kinds = [chance.choice(KINDS) for _ in range(chance.choice((1, 1, 1, 2, 5)))]
    kinds = [k for at, k in enumerate(kinds) if at == 0 or k not in (square, wide)]
    tensors: Tensors = {}
    for at, kind in enumerate(kinds):
        tensors |= {f"lora_unet_m{at}{end}": t for end, t in kind(chance).items()}
    return " + ".join(k.__name__ for k in kinds), tensors


def _many(chance: Chance) -> tuple[str, Tensors]:
    """Thousands of modules."""
    number, rank = chance.choice((1000, 5400, 12_000)), chance.choice((1, 9))
    tensors: Tensors = {}
    for n in range(number):
        out, width = chance.choice(((1, 1), (n % 50 + 1, 3)))
        one = pair_of(torch.ones(out, rank), torch.ones(rank, width) * n / number, torch.float16)
        tensors |= {f"lora_unet_m{n}{end}": t for end, t in one.items()}
    return f"{number} modules", tensors


def settings(chance: Chance) -> tuple[Parameters, float]:
    """Parameters, and `min_saving`."""
    parameters = Parameters(
        mode=chance.choice(("rank", "int8", "ultra", "ultra")),
        energy=chance.choice((0.5, 0.99, 0.99, 1.0)),
        allocation=chance.choice(("module", "module", "file")),
        targets=chance.choice((("comfyui", "a1111", "forge"), ("diffusers",))),
    )
    return parameters, chance.choice((0.05, -99.0, -99.0))


def write(path: Path, tensors: Tensors) -> None:
    """Write a safetensors file; a Hole takes no room."""
    header, at = {}, 0
    for name, t in tensors.items():
        dtype = t.dtype if isinstance(t, Hole) else NAMES[t.dtype]
        size = math.prod(t.shape) * ITEM_SIZE[dtype]
        header[name] = {"dtype": dtype, "shape": [*t.shape], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for t in tensors.values():
            if isinstance(t, Hole):
                file.seek(math.prod(t.shape) * ITEM_SIZE[t.dtype], os.SEEK_CUR)
            elif t.numel():
                file.write(t.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        file.truncate(8 + len(text) + at)


# The run.


class Runner:
    """One worker process for many files, as the daemon has it."""

    def __init__(self, folder: Path) -> None:
        self.source, self.out = folder / "a.safetensors", folder / "out"
        self._events: list[Event] = []
        self._worker = Worker(
            isolated.command("lensd.engine"), self._events.append, timeout=600, idle_exit=600
        )
        self._own_bytes = 0

    def run(
        self, what: str, tensors: Tensors, parameters: Parameters, min_saving: float = -99.0
    ) -> Case:
        """Raises BrokenError for a bug and for a wrong result."""
        if not self._worker.running:
            self._start()
        write(self.source, tensors)
        request = self._request(parameters, min_saving)
        what = f"{what}, mode {parameters.mode}"
        process = self._process
        began = _seconds_of(process)
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # the peak begins anew
        try:
            answer = self._worker.request(request, lambda: False)
        except WorkerLost as lost:
            return Case(what, lost.reason, math.inf, 0)
        seconds, memory = _seconds_of(process) - began, _peak_bytes(process) - self._own_bytes
        if isinstance(answer, Bug):
            raise BrokenError(answer.traceback)
        if isinstance(answer, Refused):
            if answer.reason in (Reason.VERIFY_FAILED, Reason.OUT_OF_MEMORY, Reason.IO_ERROR):
                raise BrokenError(answer.message)
            return Case(what, answer.reason, seconds, memory)
        assert isinstance(answer, CompressResult)
        check(self.source, self.out, answer)
        return Case(what, "compressed", seconds, memory)

    def stop(self) -> None:
        self._worker.stop("done")

    def _start(self) -> None:
        """Start the worker with an ordinary file, which loads all of torch that it needs."""
        pair = pair_of(torch.ones(64, 8), torch.ones(8, 64), torch.float16)
        write(self.source, {f"lora_unet_a{end}": t for end, t in pair.items()})
        self._worker.request(self._request(Parameters(), 0.05), lambda: False)
        self._own_bytes = _peak_bytes(self._process)

    def _request(self, parameters: Parameters, min_saving: float) -> CompressRequest:
        self.out.unlink(missing_ok=True)
        self.out.touch()
        found = self.out.stat()
        return CompressRequest(
            path=str(self.source),
            name=self.source.name,
            identity=Identity.of(self.source.stat()),
            parameters=parameters,
            device="cpu",
            temporary=str(self.out),
            temporary_inode=(found.st_dev, found.st_ino),
            min_saving=min_saving,
        )

    @property
    def _process(self) -> psutil.Process:
        pids = [event.pid for event in self._events if isinstance(event, WorkerStarted)]
        return psutil.Process(pids[-1])


def _seconds_of(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _peak_bytes(process: psutil.Process) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+)", status)
    assert found is not None
    return int(found[1]) * 1024


def check(source: Path, out: Path, answer: CompressResult) -> None:
    """The output has no larger rank, and the error that the worker measured.

    Delta weights are formed here with the safetensors library and float64 products alone. Files
    with larger ones are left out. Modules with alpha 0 do not count: programs disagree about what
    they mean, and lensd copies them.
    """
    before, after = load_file(source), load_file(out)
    layout = read_layout({k: TensorSpec(NAMES[t.dtype], tuple(t.shape)) for k, t in before.items()})
    modules = [m for m in layout.modules if m.alpha is None or float(before[m.alpha]) != 0]
    if sum(m.out_features * m.in_features for m in modules) > CHECKED_ELEMENTS:
        return
    energy = error = 0.0
    for m in modules:
        old, new = (_delta(tensors, m) for tensors in (before, after))
        if after[m.down].shape[0] > m.rank:
            raise BrokenError(f"{m.name} has a larger rank than before")
        energy += float(old.square().sum())
        error += float((old - new).square().sum())
    found = math.sqrt(error / energy) if energy else 0.0
    if not math.isclose(found, answer.measures.delta_error, rel_tol=1e-4, abs_tol=1e-6):
        raise BrokenError(f"the error is {found}, not {answer.measures.delta_error}")


def _delta(tensors: Mapping[str, Tensor], m: Module) -> Tensor:
    up, down, alpha = tensors[m.up], tensors[m.down], tensors.get(m.alpha_key)
    rank = down.shape[0]
    scale = float(alpha) / rank if alpha is not None else 1.0
    return scale * making.product(up, down)


def run(number: int, seed: int = SEED, first: int = 0) -> Result:
    """Raises BrokenError with the case's file."""
    ends: Counter[str] = Counter()
    slowest = largest = Case("", "", 0.0, 0)
    with tempfile.TemporaryDirectory(prefix="lensd-bombs-") as folder:
        runner = Runner(Path(folder))
        for n in range(first, first + number):
            chance = Chance(f"{seed}, {n}")
            what, tensors = make(chance)
            try:
                case = runner.run(f"file {n}: {what}", tensors, *settings(chance))
            except Exception as error:
                raise _broken(runner.source, f"file {n}: {what}: {error}") from error
            if not case.cheap:
                raise _broken(runner.source, str(case))
            ends[case.end] += 1
            slowest = max(slowest, case, key=lambda c: c.seconds)
            largest = max(largest, case, key=lambda c: c.memory)
        runner.stop()
    return Result(ends, slowest, largest)


def _broken(source: Path, what: str) -> BrokenError:
    with tempfile.NamedTemporaryFile(prefix="broken-bomb-", delete=False) as file:
        shutil.copyfile(source, file.name)
    return BrokenError(f"{what}: {file.name}")


if __name__ == "__main__":
    given = [int(n) for n in sys.argv[1:]] or [1000]
    sys.stdout.write(f"{run(*given)} (seed, first: {given[1:] or SEED})\n")
