"""Paths as text."""

from __future__ import annotations

import os

VERSIONS = ".versions"  # the archive's folder of older originals


def resolve_path(path: str) -> str:
    """A path as the ledger writes it: absolute, its folder resolved.

    A folder is resolved itself too. A file is not, even if it is a link or does not exist.
    """
    folder, name = os.path.split(os.path.abspath(path))
    found = os.path.join(os.path.realpath(folder), name)
    return os.path.realpath(found) if os.path.isdir(found) else found


def is_below(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or lies in it, by their names alone (no I/O)."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")
