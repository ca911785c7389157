"""The names of the entries that lensd adds to the header's metadata. This module loads no torch."""

from __future__ import annotations

from collections.abc import Mapping

VERSION = "lensd.version"
MODE = "lensd.mode"
ORIGINAL = "lensd.original_sha256"
ORIGINAL_BYTES = "lensd.original_bytes"
ORIGINAL_NAME = "lensd.original_name"
ENERGY = "lensd.energy"
ERROR = "lensd.delta_error"
ALPHA = "lensd.alpha"
ADAPTER = "lensd.adapter_metadata"


def is_output(metadata: Mapping[str, str]) -> bool:
    """Whether lensd wrote this file."""
    return VERSION in metadata and ORIGINAL in metadata
