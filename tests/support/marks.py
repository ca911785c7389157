"""Marks of tests that skip on machines without root or a program."""

from __future__ import annotations

import os
import shutil

import pytest

# A prefix: root's command cannot read and write what modes deny.
WITHOUT_OVERRIDE = (
    "setpriv",
    "--bounding-set=-dac_override,-dac_read_search",
    "--inh-caps=-dac_override,-dac_read_search",
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def needs_program(name: str) -> pytest.MarkDecorator:
    """Skip unless the program `name` is installed."""
    return pytest.mark.skipif(shutil.which(name) is None, reason=f"needs the program {name}")
