"""The configuration as the program uses it: folders resolved, every setting decided."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from pydantic import Field, ValidationError

from lensd.config.document import (
    Archive,
    Log,
    Metrics,
    Part,
    Settings,
    Settle,
    State,
    WatchEntry,
    Worker,
)
from lensd.config.faults import Fault
from lensd.config.types import NAME_REMEDY, Existing, FolderName

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lensd.config.document import Document


class Watch(Part):
    """A watched folder. `path` is as written, absolute; `root` is where it really is."""

    key: str  # its place in the file, e.g. watch[0]
    path: str
    root: str
    name: FolderName
    existing: Existing
    recursive: bool
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    settings: Settings

    def selects(self, relative: str) -> bool:
        """Whether the file at this path inside the folder is one to look at (no I/O)."""
        if not _matches([relative], self.include):
            return False
        return not (self.exclude and _matches(_with_parents(relative), self.exclude))


class Config(Part):
    """Everything lensd is told. `source` is the file's absolute path."""

    source: str
    watch: tuple[Watch, ...]
    archive: Archive
    state: State
    settle: Settle
    worker: Worker
    log: Log
    metrics: Metrics
    lines: dict[str, int] = Field(repr=False)

    def line(self, key: str) -> int:
        """The line of `watch[0].path`, or of the nearest key around it that is written down."""
        while key and key not in self.lines:
            key = key[: max(key.rfind("."), key.rfind("["), 0)]
        return self.lines.get(key, 1)

    def fault(self, key: str, message: str, remedy: str) -> Fault:
        return Fault(self.line(key), key, message, remedy)


def resolve(
    document: Document, places: Iterable[int], source: str, lines: Mapping[str, int]
) -> tuple[Config, list[Fault]]:
    """Settle what the keys say together; `places` are the entries' positions in the file.

    A folder with a fault of its own is left out of the result.
    """
    found: list[Fault] = []
    watches = []
    for place, entry in zip(places, document.watch, strict=True):
        try:
            watches.append(_watch(entry, document.defaults, f"watch[{place}]"))
        except ValidationError:
            message = f"the last part of {entry.path!r} cannot be this folder's name"
            found.append(
                Fault(
                    lines.get(f"watch[{place}].path", 1),
                    f"watch[{place}].name",
                    message,
                    NAME_REMEDY,
                )
            )
    parts = {part: getattr(document, part) for part in _PARTS}
    config = Config(source=source, watch=tuple(watches), lines=dict(lines), **parts)
    found += _contradictions(config, document, places)
    found += _equal_names(config)
    return config, found


_PARTS = ("archive", "state", "settle", "worker", "log", "metrics")


def _watch(entry: WatchEntry, defaults: Settings, key: str) -> Watch:
    return Watch(
        key=key,
        path=entry.path,
        root=os.path.realpath(entry.path),
        name=entry.name if entry.name is not None else os.path.basename(entry.path),
        existing=entry.existing,
        recursive=entry.recursive,
        include=entry.include,
        exclude=entry.exclude,
        settings=_settings(entry, defaults),
    )


def _settings(entry: WatchEntry, defaults: Settings) -> Settings:
    written = {key: getattr(entry, key) for key in entry.model_fields_set & _OVERRIDABLE}
    settings = defaults.model_copy(update=written)
    if settings.target_size is not None:
        settings = settings.model_copy(update={"allocation": "file"})
    return settings


_OVERRIDABLE = frozenset(Settings.model_fields)


def _contradictions(config: Config, document: Document, places: Iterable[int]) -> list[Fault]:
    """`target_size` implies `allocation: file`: a written `module` beside it would be ignored."""
    defaults = document.defaults
    asked = [("defaults", defaults, defaults.target_size)]
    for place, entry in zip(places, document.watch, strict=True):
        asked.append((f"watch[{place}]", entry, _settings(entry, defaults).target_size))
    message = "`allocation: module` contradicts `target_size`, which is shared out over the file"
    return [
        config.fault(f"{key}.allocation", message, "remove one of the two")
        for key, part, target in asked
        if target is not None
        and "allocation" in part.model_fields_set
        and part.allocation == "module"
    ]


def _equal_names(config: Config) -> list[Fault]:
    first: dict[str, str] = {}
    found = []
    for watch in config.watch:
        holder = first.setdefault(watch.name, watch.key)
        if holder != watch.key:
            message = f"{holder} is called {watch.name!r} too"
            remedy = "give one of them another `name`"
            found.append(config.fault(f"{watch.key}.name", message, remedy))
    return found


def _matches(candidates: Iterable[str], patterns: Iterable[str]) -> bool:
    patterns = [pattern.rstrip("/") for pattern in patterns]
    return any(
        fnmatchcase(text, pattern)
        for candidate in candidates
        for text in (candidate, os.path.basename(candidate))
        for pattern in patterns
    )


def _with_parents(relative: str) -> list[str]:
    parts = relative.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
