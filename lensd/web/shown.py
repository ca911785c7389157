"""Texts without paths of the disk: a watched folder is its name, and the archive is `archive`."""

from __future__ import annotations

from lensd.config.model import Config
from lensd.store.ledger.entry import Entry
from lensd.text import printable, visible, visible_lines


class Shortener:
    """Replaces the folders of a configuration in texts."""

    def __init__(self, config: Config) -> None:
        folders = {config.archive.path: "archive", config.state.path: "state"}
        for watch in config.watch:
            folders |= {watch.path: watch.name, watch.root: watch.name}
        longest_first = sorted(folders.items(), key=lambda pair: -len(pair[0]))
        self._names = [(printable(path), name) for path, name in longest_first]

    def shorten(self, text: str) -> str:
        """The text, which may have several lines, with short paths and no control characters."""
        for path, name in self._names:
            text = text.replace(f"{path}/", f"{name}/").replace(path, name)
        return visible_lines(text)


def shown_path(entry: Entry) -> str:
    """The path of a row as people read it: the name of the watched folder, then the path in it."""
    return visible(f"{entry.watch}/{entry.path}")
