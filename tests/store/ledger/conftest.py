"""An empty ledger, and the values that its tests use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lensd.store.identity import Identity
from lensd.store.ledger import Ledger

ROOT, WATCH = "/srv/loras", "loras"
FIRST = Identity(1, 10, 100, 5_000, 6_000)
ODD = os.fsdecode(b"caf\xe9\n[1]%.safetensors")  # neither UTF-8 nor one line; SQL and glob patterns


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(str(tmp_path), "1.0")
    yield ledger
    ledger.close()
