"""Which folder is the one that it was: a table, and one look at the real machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from lensd.store.ledger.roots import RootIdentity
from lensd.watcher import root_identity
from tests.support.descriptors import Descriptors

KNOWN = RootIdentity(7, 11, "1 /srv/disk")


@pytest.mark.parametrize(
    ("found", "familiar", "reason"),
    [
        pytest.param(KNOWN, False, None, id="the same"),
        pytest.param(KNOWN._replace(mount="1 /srv/disk/loras"), False, None, id="bound elsewhere"),
        pytest.param(KNOWN._replace(device=8), False, None, id="the disk has another number"),
        pytest.param(KNOWN._replace(inode=12), False, None, id="replaced on the same mount"),
        pytest.param(RootIdentity(1, 2, "1 /"), False, "unmounted", id="unmounted"),
        pytest.param(RootIdentity(1, 2, "1 /srv"), False, "unmounted", id="the one below shows"),
        pytest.param(RootIdentity(1, 2, None), False, "unmounted", id="its mount is gone"),
        pytest.param(
            RootIdentity(9, 1, "1 /srv/disk/loras"), False, "mounted_over", id="mounted over"
        ),
        pytest.param(RootIdentity(9, 1, "2 /srv/disk"), False, "mounted_over", id="on its top"),
        pytest.param(RootIdentity(9, 1, "1 /srv/di"), False, "mounted_over", id="only alike"),
        pytest.param(RootIdentity(1, 2, "1 /"), True, None, id="moved, with its files"),
    ],
)
def test_the_decision(found: RootIdentity, familiar: bool, reason: str | None) -> None:  # noqa: FBT001
    """Only another mount is a problem, and only as long as the known files are not there."""
    problem = root_identity.decide(KNOWN, found, lambda: familiar)
    assert reason == (problem.reason if problem else None)


def test_nothing_known_is_no_problem() -> None:
    """A folder that lensd sees for the first time, or in whose ledger no mount was written."""
    assert root_identity.decide(None, KNOWN, lambda: False) is None
    old = RootIdentity(1, 2, None)
    assert root_identity.decide(old, KNOWN, lambda: False) is None


def test_files_are_looked_for_only_in_doubt() -> None:
    """Looking for known files costs a disk some seeks."""

    def is_familiar() -> bool:
        raise AssertionError

    assert root_identity.decide(KNOWN, KNOWN, is_familiar) is None
    assert root_identity.decide(KNOWN, KNOWN._replace(inode=3), is_familiar) is None


def test_a_probe(tmp_path: Path) -> None:
    """Equal as long as nothing changes, through links too; a file or nothing raises OSError."""
    link = tmp_path / "link"
    folder = tmp_path / "folder"
    folder.mkdir()
    link.symlink_to(folder)
    found = root_identity.probe(str(folder))
    assert found == root_identity.probe(str(folder))
    assert found.identity == root_identity.probe(str(link)).identity
    assert found.identity[:2] == (folder.stat().st_dev, folder.stat().st_ino)
    assert found.identity.mount is not None
    for path in (folder / "none", Path(__file__)):
        with pytest.raises(OSError, match=str(path)):
            root_identity.probe(str(path))


def test_a_probe_leaves_nothing_open(tmp_path: Path) -> None:
    """An open folder would keep its disk from being unmounted."""
    descriptors = Descriptors()
    root_identity.probe(str(tmp_path))
    assert [] == descriptors.opened()
