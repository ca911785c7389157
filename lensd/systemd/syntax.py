"""How paths are written in unit files (systemd.syntax(7), systemd.exec(5), systemd-escape(1))."""

from __future__ import annotations

import os
import re

_PLAIN = re.compile(r"[A-Za-z0-9/._:@+,=-]+")
_UNIT_BYTES = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789:_.")


def is_expressible(path: str) -> bool:
    """Whether a list of paths can name it: UTF-8 without control characters only."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return all(ord(char) >= 32 and ord(char) != 127 for char in path)


def path_value(path: str) -> str:
    """A path for ReadWritePaths= and its like, which know no escapes for bytes."""
    if not is_expressible(path):
        raise ValueError(f"no unit file can name {path!r}")
    return _quoted(path.replace("\\", "\\\\").replace('"', '\\"')).replace("%", "%%")


def argument(text: str) -> str:
    """One word of ExecStart=: any bytes, nothing in it is expanded."""
    escaped = "".join(_escaped_byte(byte) for byte in os.fsencode(text))
    return _quoted(escaped).replace("%", "%%").replace("$", "$$")


def mount_unit(point: str) -> str:
    """The name of the mount unit for a mount point, as `systemd-escape --path` writes it."""
    path = os.fsencode(point.strip("/"))
    if not path:
        return "-.mount"
    name = "".join(_unit_byte(byte, first=place == 0) for place, byte in enumerate(path))
    return f"{name}.mount"


def _quoted(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else f'"{text}"'


def _escaped_byte(byte: int) -> str:
    if 32 <= byte < 127 and byte not in b'"\\':
        return chr(byte)
    return f"\\x{byte:02x}"


def _unit_byte(byte: int, *, first: bool) -> str:
    if byte == ord("/"):
        return "-"
    if byte in _UNIT_BYTES and not (first and byte == ord(".")):
        return chr(byte)
    return f"\\x{byte:02x}"
