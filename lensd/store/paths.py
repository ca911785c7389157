"""Paths as text."""

from __future__ import annotations

import os

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


def is_relative(path: str) -> bool:
    """Whether a path stays below the folder that it is relative to."""
    return not (path.startswith("/") or "\0" in path or ".." in path.split("/"))
