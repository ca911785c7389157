"""A copy gets the original's mode, owner, ACL and times, or the error names what is denied."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lensd.errors import Skipped
from lensd.store.attributes import copy_attributes
from tests.store.conftest import RunPython

ACL = "system.posix_acl_access"
NOBODY = 65534
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """An original and a new file of mode 0600, both open."""
    for name in ("original", "copy"):
        (tmp_path / name).touch(0o600)
    source, target = (os.open(tmp_path / name, os.O_RDWR) for name in ("original", "copy"))
    yield source, target
    os.close(source)
    os.close(target)


def set_attribute(fd: int, name: str, value: bytes) -> None:
    try:
        os.setxattr(fd, name, value)
    except OSError as error:
        pytest.skip(f"this filesystem has no {name}: {error}")


def acl_of(fd: int) -> bytes | None:
    try:
        return os.getxattr(fd, ACL)
    except OSError:
        return None


def acl(user: int) -> bytes:
    """rw for the owner and `user`, r for the group, nothing for others; mask rw."""
    entries = [(0x01, 6, -1), (0x02, 6, user), (0x04, 4, -1), (0x10, 6, -1), (0x20, 0, -1)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)


def test_mode_times_and_attributes_are_copied(pair: tuple[int, int]) -> None:
    """To the nanosecond, also for a file that its owner may only read."""
    source, target = pair
    set_attribute(source, "user.origin", b"https://example.org\0\xff")
    os.fchmod(source, 0o444)
    os.utime(source, ns=(1_600_000_000_123_456_789, 1_500_000_000_987_654_321))
    copy_attributes(source, target, preserve_mtime=True)
    copy = os.fstat(target)
    assert stat.S_IMODE(copy.st_mode) == 0o444
    assert copy.st_mtime_ns == 1_500_000_000_987_654_321
    assert copy.st_atime_ns == 1_600_000_000_123_456_789
    assert os.getxattr(target, "user.origin") == b"https://example.org\0\xff"


def test_a_new_mtime_is_kept_on_request(pair: tuple[int, int]) -> None:
    """preserve_mtime: false leaves the time of writing."""
    source, target = pair
    os.utime(source, ns=(0, 0))
    before = os.fstat(target).st_mtime_ns
    copy_attributes(source, target, preserve_mtime=False)
    assert os.fstat(target).st_mtime_ns == before


def test_an_acl_is_copied(pair: tuple[int, int]) -> None:
    """With its mask, which is the group part of the mode."""
    source, target = pair
    set_attribute(source, ACL, acl(1234))
    copy_attributes(source, target, preserve_mtime=True)
    assert acl_of(target) == acl_of(source)
    assert os.fstat(target).st_mode == os.fstat(source).st_mode


def test_an_acl_inherited_from_the_folder_is_removed(pair: tuple[int, int]) -> None:
    """A default ACL of the folder must not give access to more users than the original did."""
    source, target = pair
    set_attribute(target, ACL, acl(1234))
    os.fchmod(source, 0o640)
    copy_attributes(source, target, preserve_mtime=True)
    assert acl_of(target) is None
    assert stat.S_IMODE(os.fstat(target).st_mode) == 0o640


@root_only
def test_owner_group_and_setuid_are_copied(pair: tuple[int, int]) -> None:
    """The set-id bits, which a change of owner clears, are set after it."""
    source, target = pair
    os.fchown(source, NOBODY, 12345)
    os.fchmod(source, 0o6755)
    copy_attributes(source, target, preserve_mtime=True)
    copy = os.fstat(target)
    assert (copy.st_uid, copy.st_gid, stat.S_IMODE(copy.st_mode)) == (NOBODY, 12345, 0o6755)


COPY_AS_NOBODY = """
import os, sys
from lensd.errors import Skipped
from lensd.store.attributes import copy_attributes
os.setgroups([]); os.setgid(65534); os.setuid(65534)
source, target = int(sys.argv[1]), int(sys.argv[2])
try:
    copy_attributes(source, target, preserve_mtime=True)
    print("copied")
except Skipped as skipped:
    print(skipped.reason, skipped)
"""


@root_only
@pytest.mark.parametrize("owner", ["another", "the same"])
def test_without_rights_the_owner_is_named(
    pair: tuple[int, int], run_python: RunPython, owner: str
) -> None:
    """Only if it differs; the rest is set before, and set-id bits are not copied then."""
    source, target = pair
    os.fchown(target, NOBODY, NOBODY)
    if owner == "the same":
        os.fchown(source, NOBODY, NOBODY)
    os.fchmod(source, 0o4644)
    os.utime(source, ns=(1, 2))
    done = run_python(COPY_AS_NOBODY, source, target, pass_fds=(source, target))
    copy = os.fstat(target)
    if owner == "the same":
        assert done.stdout == "copied\n"
        assert stat.S_IMODE(copy.st_mode) == 0o4644
    else:
        assert done.stdout.startswith("owner lensd may not copy the original's user, group")
        assert "CAP_CHOWN" in done.stdout
        assert stat.S_IMODE(copy.st_mode) == 0o644
    assert copy.st_mtime_ns == 2


def test_an_attribute_that_the_target_cannot_hold_is_named(pair: tuple[int, int]) -> None:
    """Across filesystems; procfs has no user attributes."""
    source, _ = pair
    set_attribute(source, "user.note", b"x")
    target = os.open("/proc/self/comm", os.O_RDWR)
    try:
        with pytest.raises(Skipped) as caught:
            copy_attributes(source, target, preserve_mtime=False)
    except OSError as error:
        pytest.skip(f"procfs here refuses more than that: {error}")
    finally:
        os.close(target)
    assert caught.value.reason == "owner"
    assert "user.note" in str(caught.value)


@pytest.mark.skipif(shutil.which("getfacl") is None, reason="needs getfacl")
def test_getfacl_sees_the_same(tmp_path: Path, pair: tuple[int, int]) -> None:
    """The system's own tool compares them."""
    source, target = pair
    set_attribute(source, ACL, acl(1234))
    copy_attributes(source, target, preserve_mtime=True)
    seen = [
        subprocess.run(["getfacl", "-c", str(tmp_path / name)], capture_output=True, check=True)
        for name in ("original", "copy")
    ]
    assert b"user:1234:rw-" in seen[0].stdout
    assert seen[1].stdout == seen[0].stdout
