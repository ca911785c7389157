"""Any fields -> one line of strictly valid JSON that journald takes whole."""

from __future__ import annotations

import base64
import json
import math
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# journald cuts a line at 48 KB, and then it is no JSON any more.
MAX_LINE = 48_000
# How long a text may be in a line that came out too long: the first limit that helps is taken.
_LIMITS = (8192, 2048, 512, 128)
# Line and paragraph separators and the control characters that JSON lets stand: some readers
# break lines at them, and terminals obey them.
_ESCAPES = {code: f"\\u{code:04x}" for code in (*range(0x7F, 0xA0), 0x2028, 0x2029)}


def plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Values as JSON has them; a path that is not UTF-8 becomes readable and gets a `_b64` twin."""
    found: dict[str, Any] = {}
    for key, value in fields.items():
        found[key] = _value(value)
        if _is_path(key) and not _is_twin(key) and isinstance(value, str | bytes | os.PathLike):
            raw = _raw(os.fspath(value))
            if found[key].encode() != raw:
                found[f"{key}_b64"] = base64.b64encode(raw).decode()
    return found


def fitted(fields: dict[str, Any]) -> bytes:
    """The line, without its end; long texts and lists in it are cut until it is short enough."""
    line = _line(fields)
    for limit in _LIMITS:
        if len(line) <= MAX_LINE:
            break
        whole = _is_twin if limit == _LIMITS[-1] else _is_path
        cut = {key: v if whole(key) else _cut(v, limit) for key, v in fields.items()}
        line = _line(cut)
    return line


def _line(fields: Mapping[str, Any]) -> bytes:
    text = json.dumps(fields, ensure_ascii=False, allow_nan=False, separators=(", ", ": "))
    return text.translate(_ESCAPES).encode()


def _value(value: Any) -> Any:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | bytes | os.PathLike):
        return _raw(os.fspath(value)).decode("utf-8", "backslashreplace")
    if isinstance(value, dict):
        return {str(_value(key)): _value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_value(inner) for inner in value]
    return _value(str(value))


def _raw(text: str | bytes) -> bytes:
    """The bytes that a name has on disk (a lone surrogate that stands for none: as an escape)."""
    if isinstance(text, bytes):
        return text
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace")


def _is_path(key: str) -> bool:
    return key == "path" or key.endswith("_path") or _is_twin(key)


def _is_twin(key: str) -> bool:
    """The bytes of a path: cut, they would be another path's."""
    return key.endswith("_b64")


def _cut(value: Any, limit: int) -> Any:
    if isinstance(value, str) and len(value) > limit:
        return f"{value[: limit - 40]}... ({len(value) - limit + 40} more characters)"
    if isinstance(value, list):
        return [_cut(inner, limit) for inner in value[: limit // 32]]
    if isinstance(value, dict):
        kept = list(value.items())[: limit // 32]
        return {key: _cut(inner, limit) for key, inner in kept}
    return value
