"""The first configuration of a machine, made of a few answers, as `lensd init` writes it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from lensd.config.document import Archive, Document, Log, State
from lensd.config.example import example
from lensd.config.settings import Settings, WatchEntry
from lensd.config.types import Existing
from lensd.errors import ConfigError
from lensd.lora.portability import Program
from lensd.store.space import device_of
from lensd.text import visible

SYSTEM_PATH = "/etc/lensd/config.yaml"
USER_PATH = "~/.config/lensd/config.yaml"


@dataclass(frozen=True, slots=True)
class Places:
    """Where configuration, originals and ledger are if nothing else was chosen."""

    config: str
    archive: str
    state: str
    log: str | None

    @classmethod
    def of_user(cls, uid: int) -> Places:
        """For root those of the service; else folders in the home of the user."""
        if uid == 0:
            return cls(SYSTEM_PATH, "/srv/lora-archive", "/var/lib/lensd", None)
        return cls(
            *map(
                os.path.expanduser,
                (
                    USER_PATH,
                    "~/lora-archive",
                    "~/.local/state/lensd",
                    "~/.local/state/lensd/lensd.log",
                ),
            )
        )


@dataclass(frozen=True, slots=True)
class Answers:
    """What a person chose. All paths are absolute."""

    folders: tuple[str, ...]
    targets: tuple[Program, ...]
    existing: Existing
    archive: str
    state: str
    log: str | None


def render(answers: Answers) -> str:
    """Return the text of the configuration. Raises ConfigError for a path that is not UTF-8."""
    paths = (*answers.folders, answers.archive, answers.state, answers.log or "")
    for path in paths:
        if not path.isprintable():
            raise ConfigError(
                f"a configuration cannot contain the path '{visible(path)}'; rename the folder"
            )
    names = unique_names(answers.folders)
    return example(
        Document(
            watch=tuple(
                WatchEntry(path=path, name=name, existing=answers.existing)
                for path, name in zip(answers.folders, names, strict=True)
            ),
            defaults=Settings(targets=answers.targets),
            archive=Archive(path=answers.archive),
            state=State(path=answers.state),
            log=Log(path=answers.log),
        )
    )


def write(path: str, text: str, *, force: bool) -> str | None:
    """Write a new file, with an absolute path; return where the old one is now, or None.

    Raises ConfigError if the file exists, or cannot be written.
    """
    kept = None
    require_place(path, force=force)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if os.path.lexists(path):
            kept = _find_old_name(path)
            os.rename(path, kept)
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        message = f"cannot write {path}: {error.strerror}; name another file with -c"
        raise ConfigError(message) from error
    return kept


def require_place(path: str, *, force: bool) -> None:
    """Raises ConfigError for a folder, and without `force` for a file that exists."""
    if os.path.isdir(path):
        raise ConfigError(f"{path} is a folder; name a file in it: -c {path}/config.yaml")
    if os.path.exists(path) and not os.path.isfile(path):
        raise ConfigError(f"{path} is a device or a pipe; name a file: -c config.yaml")
    if os.path.lexists(path) and not force:
        raise ConfigError(
            f"there is already a configuration {path}; edit it, name another file with -c, or use "
            f"--force, which keeps the old one as {_find_old_name(path)}"
        )


def _find_old_name(path: str) -> str:
    """A name that no file has: each configuration that was replaced stays."""
    numbers = ("", *(f".{number}" for number in range(2, 1000)))
    return next(old for number in numbers if not os.path.lexists(old := f"{path}.old{number}"))


def unique_names(paths: Sequence[str]) -> list[str]:
    """Return a name for each folder: as many last parts of its path as make it unique."""
    parts = [[part.lstrip(".") for part in path.split("/") if part.strip(".")] for path in paths]
    for count in range(1, max(map(len, parts), default=0) + 1):
        names = ["-".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{number}-{'-'.join(part)}" for number, part in enumerate(parts, 1)]


def is_same_disk(path: str, other: str) -> bool:
    """Whether two paths, of which the last parts may not exist yet, are on one filesystem."""
    return device_of(path) == device_of(other)
