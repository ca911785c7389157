"""lensd.systemd.writable_paths: the folders that the unit opens, and the mounts that it needs."""

from __future__ import annotations

import pytest

from lensd.errors import ConfigError
from lensd.systemd.writable_paths import (
    ServicePaths,
    folders_without_links,
    needed_mounts,
    optional_read_write_paths,
    read_write_paths,
)

STATE = "/var/lib/lensd"


def _paths(*watched: str, archive: str, own: tuple[str, ...] = (STATE,)) -> ServicePaths:
    return ServicePaths(watched, archive, own)


@pytest.mark.parametrize(
    ("mounts", "watched", "archive", "opened"),
    [
        (["/"], ["/srv/loras"], "/srv/lora-archive", ["/srv"]),
        (["/"], ["/home/a/x/loras"], "/home/a/archive", ["/home/a"]),
        # The folder above the mount point, so that lensd sees an unmount.
        (["/", "/mnt/big"], ["/mnt/big/loras"], "/mnt/big/archive", ["/mnt"]),
        (["/", "/mnt/big"], ["/mnt/big"], "/srv/archive", ["/mnt", "/srv"]),
        (["/", "/mnt/a", "/mnt/b"], ["/mnt/a/l", "/mnt/b/l"], "/mnt/b/x", ["/mnt"]),
        # Only / is above these mount points or folders.
        (["/", "/data"], ["/data/loras"], "/data/archive", ["/data"]),
        (["/"], ["/home/a/loras"], "/srv/archive", ["/home/a", "/srv"]),
        (["/"], ["/loras"], "/archive", ["/archive", "/loras"]),
        # One folder contains the other.
        (["/", "/srv/big"], ["/srv/loras", "/srv/big/loras"], "/srv/archive", ["/srv"]),
    ],
)
def test_each_disk_has_one_folder_above_it(
    mounts: list[str], watched: list[str], archive: str, opened: list[str]
) -> None:
    """It is the parent of the mount point, or the common parent of the folders; never /."""
    assert opened == read_write_paths(_paths(*watched, archive=archive), mounts)


def test_its_own_folders_need_no_entry() -> None:
    """The unit opens /var/lib/lensd and /var/log/lensd, but no other state folder."""
    paths = _paths("/srv/l", archive="/srv/a", own=(STATE, "/var/log/lensd", "/var/state"))
    assert ["/srv", "/var/state"] == read_write_paths(paths, ["/"])


def test_the_textfiles_folder_may_be_missing() -> None:
    """It has an entry of its own and needs no disk; in another entry it needs none."""
    paths = ServicePaths(("/srv/l",), "/srv/a", (STATE,), metrics=("/run/lensd",))
    assert (["/srv"], ["/run/lensd"]) == (
        read_write_paths(paths, ["/", "/run"]),
        optional_read_write_paths(paths, ["/", "/run"]),
    )
    assert ([], []) == needed_mounts(paths, ["/", "/run"])
    inside = ServicePaths(("/srv/l",), "/srv/a", (STATE,), metrics=("/srv/metrics",))
    assert [] == optional_read_write_paths(inside, ["/"])


def test_folders_whose_only_common_parent_is_root_get_no_links() -> None:
    """They are on one disk, but the unit cannot link between them."""
    paths = _paths("/home/a/loras", "/srv/loras", archive="/srv/archive")
    assert ["/home/a/loras"] == folders_without_links(paths, ["/"])
    assert [] == folders_without_links(paths, ["/", "/home"])  # another disk has no links anyway


def test_a_folder_that_a_unit_file_cannot_contain_is_opened_from_above() -> None:
    """Its name is not UTF-8. The folder above must not be the whole system."""
    paths = _paths("/srv/\udce9/loras", archive="/srv/\udce9/archive")
    assert ["/srv"] == read_write_paths(paths, ["/"])
    with pytest.raises(ConfigError, match="UTF-8"):
        read_write_paths(_paths("/\udce9/loras", archive="/\udce9/archive"), ["/"])


def test_needed_mounts_are_those_of_archive_and_state() -> None:
    """Disks of watched folders alone may be missing."""
    paths = _paths("/mnt/a/l", "/mnt/b/l", archive="/mnt/b/x", own=("/mnt/s/state",))
    mounts = ["/", "/mnt/a", "/mnt/b", "/mnt/s"]
    assert (["/mnt/b", "/mnt/s"], ["/mnt/a"]) == needed_mounts(paths, mounts)
