"""Hostile headers by the thousand: `python -m tests.fuzz.header [NUMBER] [SEED]`.

Each is read as lensd reads a file that appeared: header, then layout. Only a FileError may come of
it, within a second, and never may a file be taken that the safetensors library refuses. Says how
many there were, the slowest, and the most memory; a case that breaks a rule is kept, to be added to
the corpus.
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, deserialize

from lensd.errors import FileError
from lensd.lora.adapter import adapter_metadata, for_mixed_ranks
from lensd.lora.layout import NAMINGS, OTHER_ADAPTERS, read_layout
from lensd.lora.names import canonical
from lensd.lora.tensor_spec import TensorSpec
from lensd.lora.untouched import reasons
from lensd.store.header import read_header

CORPUS = Path(__file__).with_name("corpus")
SECONDS = 1.0
MEMORY_BYTES = 300_000_000
SEED = 15

Chance = random.Random


class Result(NamedTuple):
    """What a run had: ends by reason, the slowest case in seconds of CPU, the most memory."""

    ends: Counter[str]
    slowest: float
    peak_bytes: int

    def __str__(self) -> str:
        ends = ", ".join(f"{count} {end}" for end, count in self.ends.most_common())
        return (
            f"{self.ends.total()} headers: {ends}; the slowest {self.slowest * 1000:.0f} ms, "
            f"memory at most {self.peak_bytes / 1e6:.0f} MB"
        )


class BrokenError(Exception):
    """A case that broke a rule."""


def read(content: bytes) -> str:
    """How lensd ends with a file of this content."""
    fd = os.memfd_create("fuzz")
    try:
        os.write(fd, content)
        return look(fd)
    finally:
        os.close(fd)


def look(fd: int) -> str:
    """The same of an open file."""
    try:
        header = read_header(fd, os.fstat(fd).st_size)
        specs = {name: TensorSpec(t.dtype, t.shape) for name, t in header.tensors.items()}
        layout = read_layout(specs)
        reasons({key: specs[key] for key in layout.untouched})
        ranks = {m.name: 1 + n % 3 for n, m in enumerate(layout.modules)}
        for name in ranks:
            canonical(name)
        for_mixed_ranks(layout, ranks)
        adapter_metadata(header.metadata.get("lora_adapter_metadata", ""), ranks)
    except FileError as end:
        return end.reason
    return "a LoRA"


def peak_bytes() -> int:
    """The most memory of this process; ru_maxrss would count whoever started it."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def run(number: int, seed: int = SEED) -> Result:
    """Raises BrokenError with the case's file."""
    chance = random.Random(seed)  # noqa: S311
    corpus = [path.read_bytes() for path in sorted(CORPUS.iterdir())]
    ends: Counter[str] = Counter()
    slowest = 0.0
    for n in range(number):
        content = corpus[n] if n < len(corpus) else mutate(chance, corpus)
        began = time.process_time()
        try:
            end = read(content)
        except Exception as error:
            raise _broken(content, f"{type(error).__name__}: {error}") from error
        took = time.process_time() - began
        if took > SECONDS:
            raise _broken(content, f"it took {took:.1f} s")
        if end in ("a LoRA", "no_lora") and not _is_read_by_the_library(content):
            raise _broken(content, "the safetensors library refuses it")
        slowest = max(slowest, took)
        ends[end] += 1
    return Result(ends, slowest, peak_bytes())


def mutate(chance: Chance, corpus: Sequence[bytes]) -> bytes:
    """One to four mutations of one member of the corpus."""
    content = chance.choice(corpus)
    for _ in range(chance.choice((1, 1, 2, 4))):
        content = chance.choice(MUTATIONS)(chance, content, corpus)
    return content


def _flip(chance: Chance, content: bytes, _: Sequence[bytes]) -> bytes:
    data = bytearray(content or b"\0")
    for _turn in range(chance.choice((1, 1, 3, 20))):
        data[_near_start(chance, len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def _splice(chance: Chance, content: bytes, corpus: Sequence[bytes]) -> bytes:
    other = chance.choice(corpus)
    return content[: _near_start(chance, len(content))] + other[_near_start(chance, len(other)) :]


def _drop(chance: Chance, content: bytes, _: Sequence[bytes]) -> bytes:
    at = _near_start(chance, len(content))
    return content[:at] + content[at + chance.choice((1, 2, 8, 100, 10**6)) :]


def _token(chance: Chance, content: bytes, _: Sequence[bytes]) -> bytes:
    at = _near_start(chance, len(content))
    return content[:at] + chance.choice(TOKENS) * chance.choice((1, 1, 2, 1000)) + content[at:]


def _length(chance: Chance, content: bytes, _: Sequence[bytes]) -> bytes:
    """The length field lies."""
    true = int.from_bytes(content[:8], "little")
    near = (0, 1, true - 1, true + 1, 2 * true, len(content), len(content) - 8)
    far = (2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1, chance.getrandbits(64))
    lie = chance.choice(near + far)
    return (lie % 2**64).to_bytes(8, "little") + content[8:]


def _structure(chance: Chance, content: bytes, corpus: Sequence[bytes]) -> bytes:
    """The JSON is well-formed, and says something else."""
    parts = _parsed(content) or _parsed(chance.choice(corpus))
    if parts is None:
        return content
    pairs, data = parts
    change = chance.choice(CHANGES)
    change(chance, pairs)
    return written(pairs, data)


Pairs = list[tuple[str, object]]


def _names(chance: Chance, pairs: Pairs) -> None:
    """Names that trip over patterns: long, repeated, dotted, of every naming."""
    for at, (name, value) in enumerate(pairs):
        if chance.random() < 0.5 and name != "__metadata__":
            pairs[at] = (chance.choice(HARD_NAMES)(chance, name), value)


def _members(chance: Chance, pairs: Pairs) -> None:
    for at, (name, value) in enumerate(pairs):
        if chance.random() < 0.3 and isinstance(value, dict):
            key = chance.choice(("dtype", "shape", "data_offsets", "more"))
            pairs[at] = (name, {**value, key: chance.choice(VALUES)(chance)})


def _order(chance: Chance, pairs: Pairs) -> None:
    chance.shuffle(pairs)


def _twice(chance: Chance, pairs: Pairs) -> None:
    pairs.append(chance.choice(pairs))


def _offsets(chance: Chance, pairs: Pairs) -> None:
    """Overlaps and holes."""
    for at, (name, value) in enumerate(pairs):
        if chance.random() < 0.2 and isinstance(value, dict) and "data_offsets" in value:
            here = value["data_offsets"]
            if isinstance(here, list) and all(isinstance(n, int) for n in here):
                moved = [n + chance.choice((-4, -1, 1, 8)) for n in here]
                pairs[at] = (name, {**value, "data_offsets": moved})


def _many(chance: Chance, pairs: Pairs) -> None:
    """Thousands of tensors without bytes."""
    ending = chance.choice([end for n in NAMINGS for end in (n.down, n.up, n.alpha)])
    empty = {"dtype": "F16", "shape": [0], "data_offsets": [0, 0]}
    pairs += [(f"{n:x}{ending}", empty) for n in range(chance.choice((10, 300, 3000)))]


def _metadata(chance: Chance, pairs: Pairs) -> None:
    key = chance.choice(("a", "lora_adapter_metadata", "lensd.version"))
    texts = ("{", '{"unet.r": 0}', "[" * 5000, "x" * 10**5)
    value: dict[str, object] = {key: chance.choice((1, None, {}, *texts))}
    pairs.insert(chance.randrange(len(pairs) + 1), ("__metadata__", value))


def _near_start(chance: Chance, length: int) -> int:
    """Positions are tried near the beginning, where the header is."""
    return chance.randrange(max(1, min(length, chance.choice((9, 64, 1000, length or 1)))))


def _parsed(content: bytes) -> tuple[Pairs, bytes] | None:
    length = int.from_bytes(content[:8], "little")
    if length > len(content) - 8:
        return None
    try:
        pairs = json.loads(content[8 : 8 + length], object_pairs_hook=_Pairs)
    except (ValueError, RecursionError):
        return None
    if not isinstance(pairs, _Pairs) or not pairs:
        return None
    inner = [(k, dict(v) if isinstance(v, _Pairs) else v) for k, v in pairs]
    return inner, content[8 + length :]


class _Pairs(list[tuple[str, object]]):
    """A JSON object with the keys that come twice."""


def written(pairs: Pairs, data: bytes) -> bytes:
    text = ",".join(f"{json.dumps(k)}:{json.dumps(v)}" for k, v in pairs)
    raw = b"{" + text.encode("utf-8", "surrogatepass") + b"}"
    return len(raw).to_bytes(8, "little") + raw + data


def _is_read_by_the_library(content: bytes) -> bool:
    try:
        deserialize(content)  # type: ignore[no-untyped-call]
    except SafetensorError:
        return False
    return True


def _broken(content: bytes, what: str) -> BrokenError:
    with tempfile.NamedTemporaryFile(prefix="broken-header-", delete=False) as file:
        file.write(content)
    return BrokenError(f"{what}: {file.name}")


TOKENS = (
    *(bytes([letter]) for letter in b'"{[]},:\\\xff\0 \n0'),
    *(b"\\ud800", b"-1", b"1e9", b"99999999999999999999", b"null", b"NaN", "\U0001f600".encode()),
)
MUTATIONS: tuple[Callable[[Chance, bytes, Sequence[bytes]], bytes], ...] = (
    _flip, _splice, _drop, _token, _length, _structure, _structure, _structure,
)  # fmt: skip
CHANGES: tuple[Callable[[Chance, Pairs], None], ...] = (
    _names, _members, _order, _twice, _offsets, _many, _metadata,
)  # fmt: skip
HARD_NAMES: tuple[Callable[[Chance, str], str], ...] = (
    lambda chance, name: chance.choice(("down_block.", ".", "a.", "é")) * 2000 + name,
    lambda chance, name: name + chance.choice(OTHER_ADAPTERS)[1],
    lambda chance, name: re.sub(r"\.lora.*", "", name) + chance.choice(NAMINGS).down,
    lambda chance, name: re.sub(r"\.lora.*", "", name) + chance.choice(NAMINGS).up,
    lambda chance, name: re.sub(r"\.lora.*", "", name) + chance.choice(NAMINGS).alpha,
    lambda _, name: "input_blocks_99999999999_9_" + name,
    lambda _, name: name[::-1],
)  # fmt: skip
LENGTHS = (0, 1, 2, 4, 70)
VALUES: tuple[Callable[[Chance], object], ...] = (
    lambda chance: chance.choice(("F16", "F4", "I8", "F99", "", "x" * 33)),
    lambda chance: chance.choices((0, 1, 2, 2**31, 2**62, 2**63, 10**19), k=chance.choice(LENGTHS)),
    lambda chance: chance.choice((None, -1, 1.5, True, {}, [[]], "0")),
)  # fmt: skip

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (2 * MEMORY_BYTES, 2 * MEMORY_BYTES))
    result = run(*(int(n) for n in sys.argv[1:] or ["100000"]))
    sys.stdout.write(f"{result}\n")
    sys.exit(result.peak_bytes > MEMORY_BYTES)
