"""A home server for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.home_server import HomeServer


@pytest.fixture
def server(tmp_path: Path) -> HomeServer:
    """Folders and a configuration; nothing runs yet."""
    return HomeServer(tmp_path)
