"""lensd reads the headers that every loader reads, and hostile headers cost little."""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open

from lensd.errors import Skipped
from lensd.store.header import (
    BITS,
    Header,
    Tensor,
    encode_header,
    largest_header,
    read_header,
    tensor_bytes,
)
from tests.store.conftest import RunPython

READ_AND_MEASURE = """
import os, re, sys, time
from lensd.errors import Skipped
from lensd.store.header import read_header
fd = os.open(sys.argv[1], os.O_RDONLY)
started = time.process_time()
try:
    read_header(fd, os.fstat(fd).st_size)
except Skipped as skipped:
    peak = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())
    print(skipped.reason, time.process_time() - started, peak[1])
"""
GOOD = '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'


def read(path: Path) -> Header:
    fd = os.open(path, os.O_RDONLY)
    try:
        return read_header(fd, os.fstat(fd).st_size)
    finally:
        os.close(fd)


def write(path: Path, header: str | bytes, data: bytes = b"") -> Path:
    raw = header.encode() if isinstance(header, str) else header
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return path


def reason(path: Path) -> str:
    with pytest.raises(Skipped) as caught:
        read(path)
    return caught.value.reason


def entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def layouts() -> st.SearchStrategy[dict[str, tuple[str, tuple[int, ...]]]]:
    shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
    whole = st.tuples(st.sampled_from(sorted(BITS)), shapes).filter(
        lambda t: np.prod(t[1], dtype=int) * BITS[t[0]] % 8 == 0
    )
    names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    return st.dictionaries(names.filter(lambda name: name != "__metadata__"), whole, max_size=6)


@given(
    layout=layouts(),
    metadata=st.dictionaries(st.text(max_size=9), st.text(max_size=30), max_size=4),
    seed=st.randoms(use_true_random=False),
)
def test_what_is_written_is_read_by_lensd_and_by_the_library(
    tmp_path_factory: pytest.TempPathFactory,
    layout: dict[str, tuple[str, tuple[int, ...]]],
    metadata: dict[str, str],
    seed: random.Random,
) -> None:
    """Names, dtypes, shapes, offsets and metadata are equal; the header is 8-byte aligned."""
    tensors = [(name, dtype, shape) for name, (dtype, shape) in layout.items()]
    seed.shuffle(tensors)
    encoded = encode_header(tensors, metadata)
    data = seed.randbytes(sum(tensor_bytes(dtype, shape) for _, dtype, shape in tensors))
    path = tmp_path_factory.getbasetemp() / "written.safetensors"
    path.write_bytes(encoded + data)

    header = read(path)

    assert len(encoded) % 8 == 0
    assert header.data_start == len(encoded)
    assert header.metadata == metadata
    assert {(n, t.dtype, t.shape) for n, t in header.tensors.items()} == set(tensors)
    with safe_open(path, "np") as judge:
        assert set(judge.keys()) == set(layout)
        assert (judge.metadata() or {}) == metadata


@given(
    names=st.lists(st.text(st.characters(exclude_categories=["Cs"])), unique=True, min_size=1),
    sides=st.lists(st.integers(1, 10**6), min_size=1, max_size=4),
    seed=st.randoms(use_true_random=False),
)
def test_the_largest_header_suffices_in_any_order(
    names: list[str], sides: list[int], seed: random.Random
) -> None:
    """Also if some sides are smaller; and no header of these tensors leaves more than digits."""
    tensors = [(name + "x", "F16", tuple(sides)) for name in names]
    space = largest_header(tensors, {"note": "ü"})
    smaller = [(name, d, (seed.randint(1, s[0]), *s[1:])) for name, d, s in tensors]
    for found in (tensors, smaller):
        seed.shuffle(found)
        assert len(encode_header(found, {"note": "ü"})) <= space + -space % 8
    digits = sum(len(str(number)) for number in (*sides, 10**30)) * len(tensors)
    assert space <= len(encode_header(smaller, {"note": "ü"})) + 2 * digits


def test_lone_surrogates_are_written_as_text_for_every_reader(tmp_path: Path) -> None:
    """The metadata may contain a file name that is not UTF-8."""
    name = os.fsdecode(b"caf\xe9.safetensors")
    path = tmp_path / "f"
    path.write_bytes(encode_header([(name, "U8", (1,))], {"lensd.original_name": name}) + b"x")
    assert read(path).metadata == {"lensd.original_name": "caf\\udce9.safetensors"}
    with safe_open(path, "np") as judge:
        assert list(judge.keys()) == ["caf\\udce9.safetensors"]


@pytest.mark.parametrize(
    "tensors",
    [
        [("a", "F32", (1,)), ("a", "F32", (1,))],
        [("__metadata__", "F32", (1,))],
        [("a", "F4", (3,))],
        [("a", "X9", (1,))],
    ],
)
def test_an_impossible_layout_is_not_written(tensors: list[Any]) -> None:
    """ValueError for equal or reserved names, parts of a byte, and unknown dtypes."""
    with pytest.raises(ValueError, match=r"taken|bytes|dtype"):
        encode_header(tensors, {})


def test_files_of_the_library_are_read(tmp_path: Path) -> None:
    """Files of save_file of torch and numpy have the same tensors."""
    weights = {
        "b": torch.ones(2, 3, dtype=torch.bfloat16),
        "a": torch.zeros(0, 5),
        "s": torch.ones(()),
    }
    safetensors.torch.save_file(weights, tmp_path / "t", metadata={"format": "pt"})
    header = read(tmp_path / "t")
    assert {name: tensor.shape for name, tensor in header.tensors.items()} == {
        "b": (2, 3), "a": (0, 5), "s": (),
    }  # fmt: skip
    assert header.metadata == {"format": "pt"}
    safetensors.numpy.save_file({"x": np.arange(6, dtype=np.int8)}, tmp_path / "n")
    assert read(tmp_path / "n").tensors == {"x": Tensor("I8", (6,), 0, 6)}


def test_real_files_are_read(shared: Path) -> None:
    """Every LoRA of the corpus has the names and shapes that the library reads."""
    paths = sorted((shared / "corpus").glob("*.safetensors"))
    assert paths
    for path in paths:
        header = read(path)
        with safe_open(path, "np") as judge:
            shapes = {name: tuple(judge.get_slice(name).get_shape()) for name in judge.keys()}  # noqa: SIM118
            assert {name: tensor.shape for name, tensor in header.tensors.items()} == shapes
            assert header.metadata == (judge.metadata() or {})


def test_tensors_come_in_the_order_of_their_bytes(tmp_path: Path) -> None:
    """In any order of the JSON, so that a file is read from front to back."""
    text = json.dumps({"b": entry("F32", [1], 4, 8), "z": entry("F32", [0], 4, 4),
                       "a": entry("F32", [1], 0, 4)})  # fmt: skip
    assert list(read(write(tmp_path / "f", text, bytes(8))).tensors) == ["a", "z", "b"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty"),
        (b"\x08", "truncated"),
        (bytes(5000), "truncated"),
        (struct.pack("<Q", 54) + GOOD.encode()[:30], "truncated"),
        (struct.pack("<Q", 54) + GOOD.encode() + bytes(3), "truncated"),
        (struct.pack("<Q", 54) + GOOD.encode()[:20] + bytes(5000), "truncated"),
        (b"<!DOCTYPE html><html>not found</html>", "not_safetensors"),
        (b"\n <html lang=en>" + b"x" * 500, "not_safetensors"),
        (b"PK\x03\x04" + bytes(100), "not_safetensors"),
        (b"\x80\x02}q\x01(X\x05\x00\x00\x00" + bytes(50), "not_safetensors"),
        (b"GGUF\x03\x00\x00\x00" + bytes(50), "not_safetensors"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not_safetensors"),
        (b'{"error":{"code":404,"text":"no such file"}}', "not_safetensors"),
        (b"Access denied, please log in.", "not_safetensors"),
        (bytes.fromhex("c0ffee11d15c0bad") + b"\xfe" * 99, "not_safetensors"),
        (struct.pack("<Q", 2**63) + GOOD.encode() + bytes(4), "bad_header"),
        (struct.pack("<Q", 2**64 - 1) + GOOD.encode() + bytes(4), "bad_header"),
    ],
)
def test_the_reason_for_a_bad_beginning(tmp_path: Path, content: bytes, expected: str) -> None:
    """Unfinished downloads can wait, other formats cannot."""
    (tmp_path / "f").write_bytes(content)
    assert reason(tmp_path / "f") == expected


def test_the_message_says_what_the_file_looks_like_and_what_to_do(tmp_path: Path) -> None:
    """Often the file is a web page instead of the model."""
    (tmp_path / "f").write_bytes(b"<!doctype html>" + b"login" * 99)
    with pytest.raises(Skipped, match=r"web page.*download the file again"):
        read(tmp_path / "f")


BAD = {
    "trailing bytes": (GOOD, 5),
    "duplicate tensor": (GOOD[:-1] + "," + GOOD[1:], 4),
    "duplicate metadata key": ('{"__metadata__":{"a":"1","a":"2"}}', 0),
    "duplicate member": ('{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 4),
    "unknown dtype": (GOOD.replace("F32", "F33"), 4),
    "unknown member": (GOOD.replace('"dtype"', '"x":1,"dtype"'), 4),
    "missing member": ('{"a":{"dtype":"F32","shape":[1]}}', 4),
    "empty entry": ('{"a":{}}', 0),
    "entry is no object": ('{"a":[1]}', 0),
    "negative shape": (GOOD.replace("[1]", "[-1]"), 4),
    "float shape": (GOOD.replace("[1]", "[1.0]"), 4),
    "nested shape": (GOOD.replace("[1]", "[[1]]"), 4),
    "leading zero": (GOOD.replace("[1]", "[01]"), 4),
    "trailing comma": (GOOD.replace("[1]", "[1,]"), 4),
    "trailing comma and space": (GOOD.replace("[1]", "[1, ]"), 4),
    "overflowing shape": (GOOD.replace("[1]", "[4294967296,4294967296,4294967297]"), 4),
    "overflow hidden by a zero": (json.dumps({"a": entry("F32", [2**40, 2**40, 0], 0, 0)}), 0),
    "too many dimensions": (GOOD.replace("[1]", str([1] * 17)), 4),
    "offsets do not match": (GOOD.replace("[0,4]", "[0,8]"), 8),
    "offsets reversed": (GOOD.replace("[0,4]", "[4,0]"), 4),
    "one offset": (GOOD.replace("[0,4]", "[4]"), 4),
    "hole": (json.dumps({"a": entry("U8", [4], 0, 4), "b": entry("U8", [4], 5, 9)}), 9),
    "hole in front": (json.dumps({"a": entry("U8", [4], 4, 8)}), 8),
    "overlap": (json.dumps({"a": entry("U8", [4], 0, 4), "b": entry("U8", [4], 3, 7)}), 7),
    "same bytes twice": (json.dumps({"a": entry("U8", [4], 0, 4), "b": entry("U8", [4], 0, 4)}), 4),
    "empty tensor inside another": (
        json.dumps({"a": entry("U8", [4], 0, 4), "b": entry("U8", [0], 2, 2)}), 4,
    ),
    "part of a byte": (json.dumps({"a": entry("F4", [3], 0, 1)}), 1),
    "metadata number": ('{"__metadata__":{"a":1}}', 0),
    "metadata null": ('{"__metadata__":null}', 0),
    "metadata nested": ('{"__metadata__":{"a":{"b":"c"}}}', 0),
    "lone surrogate": ('{"__metadata__":{"a":"\\udc80"}}', 0),
    "control character": ('{"__metadata__":{"a":"\x01"}}', 0),
    "NaN": ('{"a":NaN}', 0),
    "not closed": ('{"__metadata__":{"a":"b"}', 0),
    "two documents": (GOOD + "{}", 4),
    "single quotes": (GOOD.replace('"', "'"), 4),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_header_that_breaks_the_rules(tmp_path: Path, case: str) -> None:
    """lensd accepts no ambiguous header."""
    text, count = BAD[case]
    assert reason(write(tmp_path / "f", text, bytes(count))) == "bad_header"


def test_a_header_that_is_not_utf8(tmp_path: Path) -> None:
    """It is a bad header: JSON is UTF-8."""
    assert reason(write(tmp_path / "f", GOOD.encode().replace(b"a", b"\xff", 1), bytes(4))) == (
        "bad_header"
    )


# 220 MB in all: each is made by the test that needs it.
HOSTILE: dict[str, Callable[[], bytes]] = {
    "nested objects": lambda: b'{"a":' * 200_000,
    "nested lists": lambda: b'{"a":' + b"[" * 30_000_000,
    "nested metadata": lambda: b'{"__metadata__":{"a":' + b"{" * 1_000_000,
    "long text": lambda: b'{"__metadata__":{"a":"' + b"x" * 100_000_000 + b'"}}',
    "long text, not ASCII": lambda: (
        '{"__metadata__":{"a":"\U0001f600'.encode() + b"x" * 30_000_000 + b'","a":""}}'
    ),
    "many tensors": lambda: _objects(
        b"{", b'"%x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}', 70_000, b"}"
    ),
    "many entries": lambda: _objects(b'{"__metadata__":{', b'"%x":""', 2_000_000, b"}}"),
    "long shape": lambda: (
        b'{"a":{"dtype":"U8","shape":[' + b"1," * 10_000_000 + b'1],"data_offsets":[0,1]}}'
    ),
    "long number": lambda: (
        b'{"a":{"dtype":"U8","shape":[' + b"9" * 30_000_000 + b'],"data_offsets":[0,1]}}'
    ),
}


def _objects(start: bytes, entry: bytes, count: int, end: bytes) -> bytes:
    return start + b",".join(entry % number for number in range(count)) + end


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.fault("hostile header")
def test_hostile_headers_cost_little(tmp_path: Path, run_python: RunPython, case: str) -> None:
    """Deep nesting, endless lists and huge texts are refused within a second and 300 MB."""
    path = write(tmp_path / "f", HOSTILE[case]())
    told, seconds, peak_kb = run_python(READ_AND_MEASURE, path).stdout.split()
    assert told == "bad_header"
    assert float(seconds) < 1
    assert int(peak_kb) < 300_000


@pytest.mark.lengthy
def test_a_large_honest_header_is_read(tmp_path: Path) -> None:
    """10,000 tensors and 5 MB of training tags are legitimate."""
    tensors = [(f"module_{n}.lora_up.weight", "F16", (1, 0)) for n in range(10_000)]
    metadata = {"ss_tag_frequency": json.dumps({f"tag {n}": n for n in range(250_000)})}
    (tmp_path / "f").write_bytes(encode_header(tensors, metadata))
    header = read(tmp_path / "f")
    assert len(header.tensors) == 10_000
    assert header.metadata == metadata


@pytest.mark.lengthy
@pytest.mark.fault("hostile header")
def test_only_reasons_escape_from_mutated_files(tmp_path: Path) -> None:
    """Of 3,000 broken files each is refused with a reason, or the library reads it too."""
    chance = random.Random(15)  # noqa: S311
    tensors = [("up", "F16", (2, 3)), ("down", "I8", (5,)), ("alpha", "F32", ())]
    good = encode_header(tensors, {"format": "pt", "x": "é\\n"}) + bytes(21)
    path = tmp_path / "f"
    read_by_both = 0
    for _ in range(3_000):
        path.write_bytes(_mutate(good, chance))
        try:
            header = read(path)
        except Skipped:
            continue
        with safe_open(path, "np") as judge:
            assert set(judge.keys()) == set(header.tensors)
        read_by_both += 1
    assert 0 < read_by_both < 1_500


def _mutate(good: bytes, chance: random.Random) -> bytes:
    data = bytearray(good)
    for _ in range(chance.choice([1, 1, 2, 5])):
        data = data or bytearray(b"{")
        at = chance.randrange(len(data))
        match chance.randrange(5):
            case 0:
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                del data[at : at + chance.randrange(1, 9)]
            case 2:
                data[at:at] = chance.choice([b'"', b"{", b"[", b"\0", b",", b"9", b"\\u", b"-1"])
            case 3:
                del data[max(at, 1) :]
            case _:
                data[at] = chance.choice(b'0123456789{}[]":,\\\xff ')
    return bytes(data)


def test_lensd_is_never_less_strict_than_the_library(tmp_path: Path) -> None:
    """lensd refuses all that the library refuses."""
    for case, (text, count) in BAD.items():
        path = write(tmp_path / "f", text, bytes(count))
        try:
            with safe_open(path, "np"):
                pass
        except SafetensorError:
            assert reason(path) == "bad_header", case
