"""The archive: originals, and bytes of unknown origin. lensd overwrites nothing in it.

Its parts share one open root (`root`), and each has one purpose. They enter no link below the root.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager

from lensd.store.archive.finding import Originals
from lensd.store.archive.keeping import Archived, Keeper, Method
from lensd.store.archive.removing import Remover
from lensd.store.archive.renaming import Renamer
from lensd.store.archive.rescuing import Rescuer
from lensd.store.archive.root import ArchiveRoot
from lensd.store.archive.sweeping import Sweeper

__all__ = ["Archive", "Archived", "Method"]


class Archive:
    """The archive below the folder `root`, which must exist.

    `watched`: the watched folders by their names in the archive, whose rights its folders get.
    """

    def __init__(self, root: str, watched: Mapping[str, str] | None = None) -> None:
        self.root = root
        self.open_root = ArchiveRoot(root, watched or {})
        self.originals = Originals(self.open_root)
        self.rescuer = Rescuer(self.open_root)
        self.keeper = Keeper(self.open_root, self.rescuer)
        self.renamer = Renamer(self.open_root, self.keeper)
        self.remover = Remover(self.open_root, self.originals)
        self.sweeper = Sweeper(self.open_root)

    def hold(self) -> AbstractContextManager[int]:
        """Keep the root open for a job or a request: all parts then use this one folder."""
        return self.open_root.hold()
