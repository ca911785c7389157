"""The paths of originals in the archive, and how a name is written that a disk cannot have.

`<watch>/<relative>` is the newest original, `.versions/<sha256>/` has older ones. A name that the
disk refuses, or takes for another one that differs in case only, is written as `%~` and the name,
of which only `a-z 0-9 . _ -` stay as they are; the other bytes are `%xx`. Where that is too long it
continues in a folder: a part that ends in a single `%` belongs to the same name as the next part.
"""

from __future__ import annotations

import os
import re
import time

from lensd.store.fs import is_temporary, new_token
from lensd.store.paths import VERSIONS

RESCUED = "rescued"
_WRITTEN = "%~"
_LONGEST = 120  # bytes of a part; some encrypted folders permit 143
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789._-")
_ENCODED = re.compile(r"%~(?:[a-z0-9._-]|%[0-9a-f]{2})+")
# What FAT, exFAT, NTFS and SMB refuse in a name, in whole names, and at its end.
_REFUSED = re.compile(r'[\x00-\x1f\x7f-\x9f"*:<>?\\|\ud800-\udfff]|[. ]$')
_DEVICES = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|$)", re.IGNORECASE)


def inside(watch: str, relative: str) -> str:
    """The path in the archive of the newest original of a file. Raises ValueError."""
    if watch in ("", ".", "..", VERSIONS, RESCUED) or "/" in watch:
        raise ValueError(f"{watch!r} cannot be the name of a folder in the archive")
    if os.path.basename(relative) in ("", ".", ".."):
        raise ValueError(f"{relative!r} is not the path of a file")
    return f"{watch}/{relative}"


def older(sha256: str, watch: str, relative: str) -> str:
    """The path in the archive of an older original of a file."""
    return f"{VERSIONS}/{sha256}/{inside(watch, relative)}"


def rescued(watch: str, relative: str) -> str:
    """A new path for bytes of unknown origin, in a folder of its own.

    They may have been found under the name of a temporary, which a sweep would unlink.
    """
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    folder, name = os.path.split(relative)
    if is_temporary(name):
        relative = os.path.join(folder, name.removeprefix("."))
    return f"{RESCUED}/{moment}-{new_token()}/{inside(watch, relative)}"


def own_parts(path: str) -> int:
    """How many parts of a path in the archive mirror no watched folder."""
    return 2 if path.partition("/")[0] in (VERSIONS, RESCUED) else 0


def may_be_refused(name: str) -> bool:
    """Whether some disk cannot have the name."""
    found = _REFUSED.search(name) or _DEVICES.match(name)
    return found is not None or len(os.fsencode(name)) > _LONGEST or is_encoded(name)


def is_encoded(name: str) -> bool:
    """Whether this is how lensd writes another name, or the first part of it."""
    return name.startswith(_WRITTEN)


def encode(name: str) -> str:
    """How a name is written that the disk cannot have: a path of one part, or of more."""
    written = [chr(b) if b in _PLAIN else f"%{b:02x}" for b in os.fsencode(name)]
    if written[-1] == ".":
        written[-1] = "%2e"
    parts, part = [], _WRITTEN
    for piece in written:
        if len(part) + len(piece) >= _LONGEST:
            parts.append(f"{part}%")
            part = _WRITTEN
        part += piece
    return "/".join([*parts, part])


def decode(path: str) -> str:
    """A path in the archive with the names that its files have in the watched folder."""
    if _WRITTEN not in path:
        return path
    parts, pending = [], ""
    for part in path.split("/"):
        if pending and is_encoded(part):
            part = pending + part.removeprefix(_WRITTEN)  # noqa: PLW2901
        elif pending:
            parts.append(f"{pending}%")
        pending = ""
        if part.endswith("%") and _ENCODED.fullmatch(part[:-1]):
            pending = part[:-1]
        else:
            parts.append(_decoded(part))
    return "/".join([*parts, f"{pending}%"] if pending else parts)


def _decoded(part: str) -> str:
    if _ENCODED.fullmatch(part) is None:
        return part
    text = part.removeprefix(_WRITTEN).encode()
    raw = re.sub(rb"%(..)", lambda found: bytes([int(found[1], 16)]), text)
    return os.fsdecode(raw)
