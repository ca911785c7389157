"""What this process has open: whether the code under test leaves a descriptor open."""

from __future__ import annotations

import gc
import os
from collections import Counter


class Descriptors:
    """The descriptors at one moment, to be compared with those of a later one.

    Tests of the same process may leave objects whose descriptors close when garbage is collected.
    That happens here, and not between the two looks, where it could hide a leak.
    """

    def __init__(self) -> None:
        gc.collect()
        self._before = Counter(open_paths())

    def opened(self) -> list[str]:
        """What has been opened since then and is still open; nothing is collected before."""
        return sorted((Counter(open_paths()) - self._before).elements())


def open_paths() -> list[str]:
    """Paths of all descriptors; sockets, pipes and inotify have names such as `pipe:[number]`."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:  # the descriptor of the listing
            continue
    return found
