"""Replace the textfile in one step, so that its readers never see half of it."""

from __future__ import annotations

import os
from contextlib import suppress


def replace(path: str, content: bytes) -> None:
    """Replace the file at `path` by one with this content, which all users can read.

    Raises OSError; then the old file stays. The content is not flushed to the disk: after a power
    failure the next start writes it again.
    """
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.tmp")  # node_exporter reads only names in .prom
    with suppress(FileNotFoundError):
        os.unlink(temporary)  # left by a process that was killed
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(temporary, flags, 0o644), "wb") as file:
            os.fchmod(file.fileno(), 0o644)  # the umask may have removed some rights
            file.write(content)
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary)
        raise
