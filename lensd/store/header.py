"""Reads and writes the header of safetensors files. The cost of a hostile header is bounded.

The reader refuses all that `safetensors.safe_open` refuses, and also duplicate keys and unknown
members.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from json.encoder import encode_basestring

from lensd.errors import Reason, Skipped, Unfinished
from lensd.store.hashing import read_up_to
from lensd.store.header_scanner import BadError, Scanner
from lensd.store.sniff import kind_of

# Bits per element of every dtype that the safetensors library knows.
BITS: dict[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "I32": 32, "U32": 32, "I64": 64, "U64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
    "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip

# The format allows 100 MB, but a LoRA's header is seldom over 1 MB. With 32 MiB, and the limits on
# entries and dimensions, a hostile header costs at most 300 MB of memory and a second of time.
MAX_HEADER_BYTES = 32 * 2**20
MAX_ENTRIES = 16_384
MAX_DIMENSIONS = 16
# Patterns take longer than linear time on a name. Real names have up to 150 characters.
MAX_NAME_LENGTH = 256
_PREFIX_BYTES = 8
HEADER_STEP = 8  # the length of a header that lensd writes is a multiple of it
_SNIFF_BYTES = 512
_AGAIN = "download the file again"
_OR_MOVE = ", or move it out of the watched folder"
_OR_WAIT = f"{_OR_MOVE}; if a download is going on, lensd takes the file when it is whole"

_NUMBER = r"[ \t\n\r]*(?:0|[1-9][0-9]{0,19})[ \t\n\r]*"
_NUMBERS = re.compile(rf"{_NUMBER}(?:,{_NUMBER})*|[ \t\n\r]*")


@dataclass(frozen=True, slots=True)
class Tensor:
    """One entry: `start` and `end` are byte offsets within the data section."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """A checked header. `tensors` are in the order of their bytes; `data_start` is from byte 0."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    data_start: int


def read_header(fd: int, size: int) -> Header:
    """The header of the open file `fd` of `size` bytes, which its tensors fill exactly.

    Raises Skipped(`not_safetensors` | `bad_header`); for a file that may not be complete yet,
    Unfinished(`empty` | `truncated`), or Unfinished(`bad_header`) with bytes after the last tensor.
    """
    if size == 0:
        raise Unfinished(Reason.EMPTY, f"the file has no bytes; {_AGAIN}", folder_advice=_OR_MOVE)
    length = _header_length(read_up_to(fd, min(size, _SNIFF_BYTES), 0), size)
    raw = read_up_to(fd, length, _PREFIX_BYTES)
    if len(raw) < length or b"\0" in raw:
        # JSON has no NUL byte: a preallocated download whose header is not complete yet.
        raise _unfinished(Reason.TRUNCATED, "its header is not all there")
    try:
        text = raw.decode()
        del raw  # the text alone may take 128 MB, at 4 bytes per character
        tensors, metadata = _parse(text)
        data_bytes = _check_layout(tensors)
    except UnicodeDecodeError:
        raise _skipped(Reason.BAD_HEADER, "the header is not UTF-8") from None
    except BadError as fault:
        raise _skipped(Reason.BAD_HEADER, str(fault)) from None
    data_start = _PREFIX_BYTES + length
    _check_size(size, data_start + data_bytes)
    return Header(tensors, metadata, data_start)


def encode_header(
    tensors: Sequence[tuple[str, str, tuple[int, ...]]],
    metadata: Mapping[str, str],
    least: int = 0,
) -> bytes:
    """Length prefix and JSON for (name, dtype, shape), laid out without holes in this order.

    Padded with spaces to a multiple of HEADER_STEP bytes, and to at least `least` bytes. Lone
    surrogates, which JSON readers refuse, become backslash escapes. Raises ValueError for an
    impossible layout.
    """
    members = _members(tuple(tensors))
    if metadata:
        own = {_writable(k): _writable(v) for k, v in metadata.items()}
        members = f'"__metadata__":{_json(own)}' + (f",{members}" if members else "")
    text = f"{{{members}}}".encode()
    text = text.ljust(least - _PREFIX_BYTES)
    text += b" " * (-len(text) % HEADER_STEP)
    return len(text).to_bytes(_PREFIX_BYTES, "little") + text


def largest_header(
    tensors: Sequence[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str]
) -> int:
    """Return the bytes that suffice for a header of these tensors, in any order.

    They suffice too if sides of the tensors are smaller. Raises ValueError for an unknown dtype.
    """
    data = sum(tensor_bytes(dtype, shape) for _, dtype, shape in tensors)
    names = _json([_writable(name) for name, _, _ in tensors])
    shapes = _json([shape for _, _, shape in tensors])
    dtypes = "".join(dtype for _, dtype, _ in tensors)
    # The commas after shapes and after whole entries are those of the two lists.
    frames = (len(':{"dtype":"","shape":"data_offsets":[,]}') + 2 * len(str(data))) * len(tensors)
    return len(encode_header((), metadata)) + len((names + shapes + dtypes).encode()) + frames


@lru_cache(maxsize=1)  # an output needs it three times: for its size, its header, its metadata
def _members(tensors: tuple[tuple[str, str, tuple[int, ...]], ...]) -> str:
    """JSON of the tensors' entries, without the outer braces."""
    entries: dict[str, str] = {}
    start = 0
    for name, dtype, shape in tensors:
        end = start + tensor_bytes(dtype, shape)
        key = _writable(name)
        if key in entries or name == "__metadata__":
            raise ValueError(f"tensor name {name!r} is taken")
        sides = ",".join(map(str, shape))
        entries[key] = (
            f'{encode_basestring(key)}:{{"dtype":"{dtype}","shape":[{sides}],'
            f'"data_offsets":[{start},{end}]}}'
        )
        start = end
    return ",".join(entries.values())


def _json(entries: Mapping[str, object] | Sequence[object]) -> str:
    return json.dumps(entries, ensure_ascii=False, separators=(",", ":"))


@lru_cache(maxsize=4096)  # many tensors have the same shape, and each is asked for several times
def tensor_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of one tensor. Raises ValueError: unknown dtype, or no whole number of bytes."""
    if dtype not in BITS:
        raise ValueError(f"unknown dtype {dtype!r}")
    size, rest = divmod(math.prod(shape) * BITS[dtype], 8)
    if rest:
        raise ValueError(f"{dtype} {shape} is not a whole number of bytes")
    return size


def _writable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _skipped(reason: Reason, fault: str) -> Skipped:
    return Skipped(reason, f"{fault}: {_AGAIN}", folder_advice=_OR_MOVE)


def _unfinished(reason: Reason, fault: str) -> Unfinished:
    return Unfinished(reason, f"{fault}: {_AGAIN}", folder_advice=_OR_WAIT)


def _header_length(beginning: bytearray, size: int) -> int:
    """The length prefix, checked as far as possible without reading the header itself."""
    length = int.from_bytes(beginning[:_PREFIX_BYTES], "little")
    if length == 0:
        raise _unfinished(Reason.TRUNCATED, "the file begins with zeros")
    kind = kind_of(beginning)
    has_no_brace = beginning[_PREFIX_BYTES : _PREFIX_BYTES + 1] != b"{"
    if has_no_brace or (kind and length > MAX_HEADER_BYTES):
        if kind is None and size <= _PREFIX_BYTES:
            raise _unfinished(Reason.TRUNCATED, f"the file has {size} bytes only")
        raise _skipped(
            Reason.NOT_SAFETENSORS,
            f"the file looks like {kind or 'no known format'}, not like safetensors",
        )
    if length > MAX_HEADER_BYTES:
        raise _skipped(
            Reason.BAD_HEADER,
            f"the header says it has {length} bytes, more than the {MAX_HEADER_BYTES} that lensd "
            "reads",
        )
    if _PREFIX_BYTES + length > size:
        raise _unfinished(
            Reason.TRUNCATED,
            f"the header alone needs {_PREFIX_BYTES + length} bytes, {size} are there",
        )
    return length


def _check_size(size: int, needed: int) -> None:
    if size < needed:
        raise _unfinished(Reason.TRUNCATED, f"the tensors need {needed} bytes, {size} are there")
    if size > needed:
        raise _unfinished(Reason.BAD_HEADER, f"{size - needed} bytes lie beyond the last tensor")


def _parse(text: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    scanner = Scanner(text, MAX_ENTRIES)
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}

    def take(name: str, dtype: str, shape: str, offsets: str) -> None:
        begin, _, end = offsets.partition(",")
        if not end or "," in end:
            raise _bad_offsets(name)
        sides = tuple(map(int, shape.split(","))) if shape else ()
        tensors[name] = _tensor(name, dtype, sides, (int(begin), int(end)))

    for name in scanner.members(take):
        if name == "__metadata__":
            metadata = {key: scanner.string() for key in scanner.members()}
        else:
            tensors[name] = _tensor_of_members(name, scanner.tensor_members())
    scanner.end()
    return tensors, metadata


def _check_layout(tensors: dict[str, Tensor]) -> int:
    """Sort the tensors by their bytes and require that none overlap; returns their bytes."""
    in_order = sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end))
    end = 0
    for name, tensor in in_order:
        if tensor.start != end:
            what = "leaves a hole before" if tensor.start > end else "overlaps the one before"
            raise BadError(f"tensor {name!r} {what} byte {tensor.start} of the data")
        end = tensor.end
    tensors.clear()
    tensors.update(in_order)
    return end


def _bad_offsets(name: str) -> BadError:
    return BadError(
        f"the data_offsets of tensor {name[:MAX_NAME_LENGTH]!r} are not a begin and an end"
    )


def _tensor_of_members(name: str, members: dict[str, str]) -> Tensor:
    if len(members) != 3:
        raise BadError(f"tensor {name[:MAX_NAME_LENGTH]!r} has no dtype, shape or data_offsets")
    shape, offsets = _numbers(name, members["shape"]), _numbers(name, members["data_offsets"])
    return _tensor(name, members["dtype"], shape, offsets)


def _tensor(name: str, dtype: str, shape: tuple[int, ...], offsets: tuple[int, ...]) -> Tensor:
    if len(name) > MAX_NAME_LENGTH:
        raise BadError(f"the header has a tensor name of {len(name)} characters")
    if dtype not in BITS:
        raise BadError(f"tensor {name!r} has the unknown dtype {dtype}")
    if len(shape) > MAX_DIMENSIONS or math.prod(filter(None, shape)) >= 2**63:
        raise BadError(f"the shape of tensor {name!r} overflows")
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _bad_offsets(name)
    if math.prod(shape) * BITS[dtype] != 8 * (offsets[1] - offsets[0]):
        raise BadError(f"the data_offsets of tensor {name!r} do not match its dtype and shape")
    return Tensor(dtype, shape, offsets[0], offsets[1])


def _numbers(name: str, text: str) -> tuple[int, ...]:
    if _NUMBERS.fullmatch(text) is None:
        raise BadError(f"tensor {name!r} has a shape or offset that is not a whole number")
    return tuple(map(int, text.split(","))) if text.strip(" \t\n\r") else ()
