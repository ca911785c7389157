"""Paths as text."""

from __future__ import annotations

import os
from collections.abc import Callable
from fnmatch import fnmatchcase

from lensd.store.deadline import answers, real_path

VERSIONS = ".versions"  # the archive's folder of older originals


def resolve_path(path: str) -> str:
    """A path as the ledger writes it: absolute, its folder resolved.

    A folder is resolved itself too. A file is not, even if it is a link or does not exist, nor is
    what lies on a filesystem that does not answer.
    """
    folder, name = os.path.split(os.path.abspath(path))
    found = os.path.join(real_path(folder), name)
    return os.path.realpath(found) if answers(found) and os.path.isdir(found) else found


def is_below(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or lies in it, by their names alone (no I/O)."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def is_pattern(path: str) -> bool:
    """Whether a path that a person gave is a pattern, as in the shell. No file has that name."""
    return any(sign in path for sign in "*?[") and not os.path.lexists(resolve_path(path))


def matcher_of(path: str) -> Callable[[str], bool]:
    """Whether a full path is at or below `path`, or fits it if it is a pattern.

    The * of a pattern also stands for /.
    """
    resolved = resolve_path(path)
    may_fit = is_pattern(path)
    return lambda full: is_below(full, resolved) or (may_fit and fnmatchcase(full, resolved))


def is_relative(path: str) -> bool:
    """Whether a path stays below the folder that it is relative to."""
    return not (path.startswith("/") or "\0" in path or ".." in path.split("/"))
