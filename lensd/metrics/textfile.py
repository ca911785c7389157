"""A file that its readers find whole, whenever they look."""

from __future__ import annotations

import os
from contextlib import suppress


def replace(path: str, content: bytes) -> None:
    """The new content under the path, for everybody to read. Raises OSError; then the old stays.

    Not flushed to the disk: after a power cut the next start writes it anew.
    """
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.tmp")  # node_exporter reads what ends in .prom
    with suppress(FileNotFoundError):
        os.unlink(temporary)  # of one that was killed
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(temporary, flags, 0o644), "wb") as file:
            os.fchmod(file.fileno(), 0o644)  # the umask may have taken some of it
            file.write(content)
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary)
        raise
