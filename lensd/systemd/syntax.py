"""Write paths as unit files need them (systemd.syntax(7), systemd.exec(5), systemd-escape(1))."""

from __future__ import annotations

import os
import re

_PLAIN = re.compile(r"[A-Za-z0-9/._:@+,=-]+")
_UNIT_BYTES = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789:_.")


def is_expressible(path: str) -> bool:
    """Whether a setting with a list of paths can contain it: UTF-8 without control characters."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return all(ord(char) >= 32 and ord(char) != 127 for char in path)


def path_value(path: str) -> str:
    """Return a path for ReadWritePaths= and similar settings, which have no escapes for bytes.

    Raises ValueError if `is_expressible` is False.
    """
    if not is_expressible(path):
        raise ValueError(f"a unit file cannot contain the path {path!r}")
    return _quote(path.replace("\\", "\\\\").replace('"', '\\"')).replace("%", "%%")


def argument(text: str) -> str:
    """Return text of any bytes as one word for ExecStart=, in which systemd expands nothing."""
    escaped = "".join(_escape_byte(byte) for byte in os.fsencode(text))
    return _quote(escaped).replace("%", "%%").replace("$", "$$")


def mount_unit(mount_point: str) -> str:
    """Return the name of the unit of a mount point, as `systemd-escape --path` does."""
    path = os.fsencode(mount_point.strip("/"))
    if not path:
        return "-.mount"
    name = "".join(_escape_unit_byte(byte, first=index == 0) for index, byte in enumerate(path))
    return f"{name}.mount"


def _quote(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else f'"{text}"'


def _escape_byte(byte: int) -> str:
    if 32 <= byte < 127 and byte not in b'"\\':
        return chr(byte)
    return f"\\x{byte:02x}"


def _escape_unit_byte(byte: int, *, first: bool) -> str:
    if byte == ord("/"):
        return "-"
    if byte in _UNIT_BYTES and not (first and byte == ord(".")):
        return chr(byte)
    return f"\\x{byte:02x}"
