"""The fields of an event -> one line of strictly valid JSON that journald takes whole."""

from __future__ import annotations

import base64
import json
import math
from typing import Any, TypeAlias

Fields: TypeAlias = dict[str, Any]  # what JSON can hold; paths have surrogate escapes

# journald cuts a line at 48 KB, and then it is no JSON any more.
MAX_LINE = 48_000
# How long a text may be in a line that came out too long: the first limit that helps is taken.
_LIMITS = (8192, 2048, 512, 128)
# Line and paragraph separators and the control characters that JSON lets stand: some readers
# break lines at them, and terminals obey them.
_ESCAPES = {code: f"\\u{code:04x}" for code in (*range(0x7F, 0xA0), 0x2028, 0x2029)}


def plain(fields: Fields) -> Fields:
    """Values as JSON has them; a path that is not UTF-8 becomes readable and gets a `_b64` twin."""
    found: Fields = {}
    for key, value in fields.items():
        found[key] = _value(value)
        if is_path(key) and isinstance(value, str):
            raw = _raw(value)
            if found[key].encode() != raw:
                found[twin_of(key)] = base64.b64encode(raw).decode()
    return found


def fitted(fields: Fields) -> bytes:
    """The line, without its end; long texts and lists in it are cut until it is short enough."""
    line = _line(fields)
    for limit in _LIMITS:
        if len(line) <= MAX_LINE:
            break
        whole = _is_twin if limit == _LIMITS[-1] else _names_a_file
        cut = {key: v if whole(key) else _cut(v, limit) for key, v in fields.items()}
        line = _line(cut)
    return line


def _line(fields: Fields) -> bytes:
    text = json.dumps(fields, ensure_ascii=False, allow_nan=False, separators=(", ", ": "))
    return text.translate(_ESCAPES).encode()


def _value(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return _raw(value).decode("utf-8", "backslashreplace")
    if isinstance(value, dict):
        return {_value(key): _value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_value(inner) for inner in value]
    return value


def _raw(text: str) -> bytes:
    """The bytes that a name has on disk (a lone surrogate that stands for none: as an escape)."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace")


def is_path(field: str) -> bool:
    """Whether a field of a line is a path, by its name."""
    return field == "path" or field.endswith("_path")


def twin_of(field: str) -> str:
    """The field with the bytes of a path that is not UTF-8, in base64."""
    return f"{field}_b64"


def _is_twin(field: str) -> bool:
    return field.endswith("_b64")


def _names_a_file(field: str) -> bool:
    """Cut, the path or its bytes would be those of another file."""
    return is_path(field) or _is_twin(field)


def _cut(value: Any, limit: int) -> Any:
    if isinstance(value, str) and len(value) > limit:
        return f"{value[: limit - 40]}... ({len(value) - limit + 40} more characters)"
    if isinstance(value, list):
        return [_cut(inner, limit) for inner in value[: limit // 32]]
    if isinstance(value, dict):
        kept = list(value.items())[: limit // 32]
        return {key: _cut(inner, limit) for key, inner in kept}
    return value
