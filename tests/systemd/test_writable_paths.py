"""Which folders the unit opens."""

from __future__ import annotations

import pytest

from lensd.errors import ConfigError
from lensd.systemd.mounts import mount_of, mount_points
from lensd.systemd.writable_paths import Places, copied, entries, needed_mounts, optional_entries

STATE = "/var/lib/lensd"


def _places(*watched: str, archive: str, kept: tuple[str, ...] = (STATE,)) -> Places:
    return Places(watched, archive, kept)


@pytest.mark.parametrize(
    ("mounts", "watched", "archive", "opened"),
    [
        (["/"], ["/srv/loras"], "/srv/lora-archive", ["/srv"]),
        (["/"], ["/home/a/x/loras"], "/home/a/archive", ["/home/a"]),
        # above the disk, not the disk: an unmount is seen
        (["/", "/mnt/big"], ["/mnt/big/loras"], "/mnt/big/archive", ["/mnt"]),
        (["/", "/mnt/big"], ["/mnt/big"], "/srv/archive", ["/mnt", "/srv"]),
        (["/", "/mnt/a", "/mnt/b"], ["/mnt/a/l", "/mnt/b/l"], "/mnt/b/x", ["/mnt"]),
        # nothing but / is above these
        (["/", "/data"], ["/data/loras"], "/data/archive", ["/data"]),
        (["/"], ["/home/a/loras"], "/srv/archive", ["/home/a", "/srv"]),
        (["/"], ["/loras"], "/archive", ["/archive", "/loras"]),
        # one lies in the other
        (["/", "/srv/big"], ["/srv/loras", "/srv/big/loras"], "/srv/archive", ["/srv"]),
    ],
)
def test_one_folder_above_all_of_a_disk(
    mounts: list[str], watched: list[str], archive: str, opened: list[str]
) -> None:
    """The common parent, above the mount point where that is not the whole system."""
    assert opened == entries(_places(*watched, archive=archive), mounts)


def test_its_own_folders_need_no_entry() -> None:
    """/var/lib/lensd and /var/log/lensd are opened by the unit; another state folder is not."""
    places = _places("/srv/l", archive="/srv/a", kept=(STATE, "/var/log/lensd", "/var/state"))
    assert ["/srv", "/var/state"] == entries(places, ["/"])


def test_the_textfiles_folder_may_be_missing() -> None:
    """It is opened by itself, binds to no disk, and needs nothing where another entry covers it."""
    there = Places(("/srv/l",), "/srv/a", (STATE,), metrics=("/run/lensd",))
    assert (["/srv"], ["/run/lensd"]) == (
        entries(there, ["/", "/run"]),
        optional_entries(there, ["/", "/run"]),
    )
    assert ([], []) == needed_mounts(there, ["/", "/run"])
    covered = Places(("/srv/l",), "/srv/a", (STATE,), metrics=("/srv/metrics",))
    assert [] == optional_entries(covered, ["/"])


def test_folders_that_only_share_the_root_folder_are_copied() -> None:
    """Told of, since nobody would think of it: same disk, and no link."""
    places = _places("/home/a/loras", "/srv/loras", archive="/srv/archive")
    assert ["/home/a/loras"] == copied(places, ["/"])
    assert [] == copied(places, ["/", "/home"])  # another disk: a copy anyway


def test_a_folder_that_no_unit_can_name_is_opened_from_above() -> None:
    """Bytes that are not UTF-8; never the whole system."""
    places = _places("/srv/\udce9/loras", archive="/srv/\udce9/archive")
    assert ["/srv"] == entries(places, ["/"])
    with pytest.raises(ConfigError, match="UTF-8"):
        entries(_places("/\udce9/loras", archive="/\udce9/archive"), ["/"])


def test_which_disks_it_cannot_do_without() -> None:
    """Those of archive and state; a watched folder may be away."""
    places = _places("/mnt/a/l", "/mnt/b/l", archive="/mnt/b/x", kept=("/mnt/s/state",))
    mounts = ["/", "/mnt/a", "/mnt/b", "/mnt/s"]
    assert (["/mnt/b", "/mnt/s"], ["/mnt/a"]) == needed_mounts(places, mounts)


def test_mountinfo_is_read_as_the_kernel_writes_it() -> None:
    """Octal escapes, and bytes that are not UTF-8."""
    text = b"36 1 8:1 / / rw - ext4 /dev/a rw\n37 36 8:2 / /srv/a\\040b\xe9 rw - ext4 /dev/b rw\n"
    assert ("/", "/srv/a b\udce9") == mount_points(text)
    assert mount_of("/srv/a b\udce9/x", mount_points(text)) == "/srv/a b\udce9"
    assert mount_of("/srv/a", mount_points(text)) == "/"
