"""The ledger knows the watched folders that lensd has seen."""

from __future__ import annotations

from pathlib import Path

from lensd.store.ledger import Ledger
from tests.store.ledger.conftest import ROOT, WATCH


def test_a_root_is_new_once(ledger: Ledger) -> None:
    """Also an empty root. A ledger without roots is new."""
    assert not ledger.roots.knows(ROOT)
    assert ledger.roots.is_empty()
    ledger.roots.add(ROOT, WATCH)
    assert ledger.roots.knows(ROOT)
    assert not ledger.roots.is_empty()


def test_the_identity_of_a_root(tmp_path: Path, ledger: Ledger) -> None:
    """Unknown until it is set; only a root that was added can have one."""
    ledger.roots.add(ROOT, WATCH)
    assert ledger.roots.get_identity(ROOT) is None
    ledger.roots.set_identity(ROOT, 1, 2, None)
    assert ledger.roots.get_identity(ROOT) == (1, 2, None)
    ledger.roots.set_identity(ROOT, 3, 4, "/dev/sda1 ext4")
    ledger.roots.set_identity("/never", 1, 2, None)
    ledger.close()
    again = Ledger(str(tmp_path), "1.0")
    assert again.roots.get_identity(ROOT) == (3, 4, "/dev/sda1 ext4")
    assert again.roots.get_identity("/never") is None
    again.roots.add(ROOT, WATCH)
    assert again.roots.get_identity(ROOT) == (3, 4, "/dev/sda1 ext4")
    again.close()
