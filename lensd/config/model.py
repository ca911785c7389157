"""The configuration as the program uses it: absolute paths, all settings of each folder."""

from __future__ import annotations

import fnmatch
import os
import re
from functools import lru_cache
from typing import TYPE_CHECKING

from pydantic import Field, ValidationError

from lensd.config.document import Archive, Log, Metrics, Notify, Settle, State
from lensd.config.faults import Fault
from lensd.config.part import Part
from lensd.config.settings import Settings, WatchEntry
from lensd.config.types import NAME_REMEDY, Existing, FolderName
from lensd.config.worker import Worker
from lensd.store.deadline import real_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from lensd.config.document import Document


class Watch(Part):
    """A watched folder with all of its settings."""

    key: str  # its key in the file, e.g. watch[0]
    path: str  # as written, made absolute
    root: str  # `path` with symbolic links resolved
    name: FolderName
    existing: Existing
    recursive: bool
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    settings: Settings

    def selects(self, relative: str) -> bool:
        """Whether `include` and `exclude` select the file at this path inside the folder."""
        if not _matches([relative], self.include):
            return False
        return not (self.exclude and _matches(_with_parents(relative), self.exclude))


class Config(Part):
    """The whole configuration."""

    source: str  # the absolute path of the file
    watch: tuple[Watch, ...]
    archive: Archive
    state: State
    settle: Settle
    worker: Worker
    log: Log
    metrics: Metrics
    notify: Notify
    lines: dict[str, int] = Field(repr=False)  # key, e.g. watch[0].path -> its line, 1-based

    def line(self, key: str) -> int:
        """Return the line of a key, or of the innermost section around it that is in the file."""
        while key and key not in self.lines:
            key = key[: max(key.rfind("."), key.rfind("["), 0)]
        return self.lines.get(key, 1)

    def fault(self, key: str, message: str, remedy: str) -> Fault:
        """Return a fault at the line of a key."""
        return Fault(self.line(key), key, message, remedy)


def resolve(
    document: Document, indices: Iterable[int], source: str, lines: Mapping[str, int]
) -> tuple[Config, list[Fault]]:
    """Make a Config from a document, and find faults between its keys.

    `indices`: the positions that the entries of `document.watch` have in the file. A folder without
    a usable name is left out of the result.
    """
    faults: list[Fault] = []
    watches = []
    for index, entry in zip(indices, document.watch, strict=True):
        try:
            watches.append(_resolve_watch(entry, document.defaults, f"watch[{index}]"))
        except ValidationError:
            message = f"the last part of {entry.path!r} cannot be this folder's name"
            line = lines.get(f"watch[{index}].path", 1)
            faults.append(Fault(line, f"watch[{index}].name", message, NAME_REMEDY))
    sections = {name: getattr(document, name) for name in _SECTIONS}
    config = Config(source=source, watch=tuple(watches), lines=dict(lines), **sections)
    faults += _find_contradictions(config, document, indices)
    faults += _find_equal_names(config)
    return config, faults


_SECTIONS = ("archive", "state", "settle", "worker", "log", "metrics", "notify")


def _resolve_watch(entry: WatchEntry, defaults: Settings, key: str) -> Watch:
    return Watch(
        key=key,
        path=entry.path,
        root=real_path(entry.path),
        name=entry.name if entry.name is not None else os.path.basename(entry.path),
        existing=entry.existing,
        recursive=entry.recursive,
        include=entry.include,
        exclude=entry.exclude,
        settings=_merge_settings(entry, defaults),
    )


def _merge_settings(entry: WatchEntry, defaults: Settings) -> Settings:
    """Return the settings of a folder: those that its entry has, and `defaults` for the others."""
    written = {key: getattr(entry, key) for key in entry.model_fields_set & _OVERRIDABLE}
    return defaults.model_copy(update=written).with_allocation_of_size()


_OVERRIDABLE = frozenset(Settings.model_fields)


def _find_contradictions(config: Config, document: Document, indices: Iterable[int]) -> list[Fault]:
    """Find `allocation: module` beside `target_size`, which implies `allocation: file`."""
    defaults = document.defaults
    sections = [("defaults", defaults, defaults.target_size)]
    for index, entry in zip(indices, document.watch, strict=True):
        sections.append((f"watch[{index}]", entry, _merge_settings(entry, defaults).target_size))
    message = "`allocation: module` contradicts `target_size`, which applies to the whole file"
    return [
        config.fault(f"{key}.allocation", message, "remove one of the two")
        for key, section, target_size in sections
        if target_size is not None
        and "allocation" in section.model_fields_set
        and section.allocation == "module"
    ]


def _find_equal_names(config: Config) -> list[Fault]:
    key_of_name: dict[str, str] = {}
    faults = []
    for watch in config.watch:
        first_key = key_of_name.setdefault(watch.name, watch.key)
        if first_key != watch.key:
            message = f"{first_key} has the name {watch.name!r} too"
            remedy = "give one of them another `name`"
            faults.append(config.fault(f"{watch.key}.name", message, remedy))
    return faults


def _matches(candidates: Iterable[str], patterns: tuple[str, ...]) -> bool:
    match = _compile(patterns)
    return any(match(path) or match(os.path.basename(path)) for path in candidates)


@lru_cache
def _compile(patterns: tuple[str, ...]) -> Callable[[str], re.Match[str] | None]:
    """Return what matches a text with at least one of the patterns; nothing matches none.

    A scan asks for each file, so fnmatch's search for a compiled pattern would take most of it.
    """
    parts = [fnmatch.translate(pattern.rstrip("/")) for pattern in patterns]
    return re.compile("|".join(parts) or r"(?!)").match


def _with_parents(relative: str) -> list[str]:
    """Return a relative path and the folders above it: a, a/b, a/b/c."""
    parts = relative.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
