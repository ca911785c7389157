"""Paths as text, and where one that somebody typed really is."""

from __future__ import annotations

import os

VERSIONS = ".versions"  # the archive's folder of older originals


def place(path: str) -> str:
    """A path as the ledger has it: absolute, its folder resolved.

    A folder is resolved itself too; a file stays, even if it is a link.
    """
    folder, name = os.path.split(os.path.abspath(path))
    found = os.path.join(os.path.realpath(folder), name)
    return os.path.realpath(found) if os.path.isdir(found) else found


def is_below(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or lies in it, by their names alone (no I/O)."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")
