"""Hints for real changes in real folders, and watches that follow the folders."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lensd.daemon.inbox import Inbox, Look, Message, NewFolder
from lensd.watcher import inotify_audit, root_identity
from lensd.watcher.inotify import Inotify
from lensd.watcher.observer import Observer
from tests.support.descriptors import Descriptors
from tests.support.home_server import wait_until

SECONDS = 20.0


class Watched:
    """A root that is observed, and the hints of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.inbox = Inbox()
        self.observer = Observer(self.inbox)

    def add(self, *, recursive: bool = True) -> None:
        self.observer.add(str(self.root), recursive=recursive)

    def wait_for(self, wanted: Message) -> None:
        """Hints come until this one; other ones before it are passed over."""
        deadline = time.monotonic() + SECONDS
        while (message := self.inbox.get(max(0.0, deadline - time.monotonic()))) != wanted:
            assert message is not None, f"no {wanted}"

    def wait_for_file(self, path: Path) -> None:
        self.wait_for(Look(str(path)))

    def hints_until(self, path: Path) -> list[Message | None]:
        """Touch a file, and return the hints that come before it."""
        path.touch()
        found: list[Message | None] = []
        while (message := self.inbox.get(SECONDS)) != Look(str(path)):
            assert message is not None
            found.append(message)
        return found

    def missing(self) -> list[str] | None:
        """Folders below the root that the kernel does not watch."""
        descriptor = self.observer.descriptor(str(self.root))
        assert descriptor is not None
        device = root_identity.probe(str(self.root)).device
        nodes = inotify_audit.watched(descriptor)
        return inotify_audit.audit(str(self.root), device, nodes, recursive=True).missing


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    root = tmp_path / "root"
    (root / "old/inner").mkdir(parents=True)
    watched = Watched(root)
    yield watched
    watched.observer.stop()


def test_each_change_of_a_file_is_a_hint(watched: Watched) -> None:
    """Created, written, renamed (both names) and deleted; at the top and in a folder below."""
    watched.add()
    for folder in (watched.root, watched.root / "old/inner"):
        path, renamed = folder / "a", folder / "b"
        path.touch()
        watched.wait_for_file(path)
        with path.open("wb") as file:
            file.write(b"1")
        watched.wait_for_file(path)
        path.rename(renamed)
        watched.wait_for_file(path)
        watched.wait_for_file(renamed)
        renamed.unlink()
        watched.wait_for_file(renamed)


def test_reading_a_file_is_no_hint(watched: Watched) -> None:
    """lensd reads each file itself."""
    path = watched.root / "a"
    path.write_bytes(b"1")
    watched.add()
    path.read_bytes()
    os.listdir(watched.root)
    assert [] == watched.hints_until(watched.root / "last")


def test_names_that_are_not_utf8(watched: Watched) -> None:
    """As Python names them everywhere else."""
    watched.add()
    path = Path(os.fsdecode(os.fsencode(watched.root) + b"/caf\xe9"))
    path.touch()
    watched.wait_for_file(path)


def test_a_new_tree_is_watched_and_its_files_are_hints(watched: Watched, tmp_path: Path) -> None:
    """Made outside and moved in, or made in place so fast that files are older than the watch."""
    made = tmp_path / "made"
    (made / "x/y").mkdir(parents=True)
    (made / "x/y/file").touch()
    watched.add()
    here = made.rename(watched.root / "here")
    watched.wait_for(NewFolder(str(watched.root)))
    watched.wait_for_file(here / "x/y/file")
    for number in range(20):
        deep = watched.root / f"{number}/b/c/d"
        deep.mkdir(parents=True)
        (deep / "file").touch()
    for number in range(20):
        watched.wait_for_file(watched.root / f"{number}/b/c/d/file")
    assert [] == watched.missing()


def test_a_renamed_folder_tells_its_new_path(watched: Watched, tmp_path: Path) -> None:
    """Also when it went out of the root and came back; what lies outside is no hint."""
    watched.add()
    new = (watched.root / "old").rename(watched.root / "new")
    watched.wait_for(NewFolder(str(watched.root)))
    (new / "inner/a").touch()
    watched.wait_for_file(new / "inner/a")
    outside = new.rename(tmp_path / "outside")
    marker = watched.root / "marker"
    marker.touch()
    watched.wait_for_file(marker)
    (outside / "inner/unseen").touch()
    # a file that is made and closed is reported twice, unless the first hint still waits
    assert {Look(str(marker))} >= set(watched.hints_until(watched.root / "last"))
    back = outside.rename(watched.root / "back")
    watched.wait_for_file(back / "inner/unseen")
    (back / "inner/b").touch()
    watched.wait_for_file(back / "inner/b")
    assert [] == watched.missing()


def test_a_deleted_folder_that_is_made_again(watched: Watched) -> None:
    """Under the same name, many times."""
    watched.add()
    for number in range(30):
        shutil.rmtree(watched.root / "old")
        (watched.root / "old/inner").mkdir(parents=True)
        (watched.root / f"old/inner/{number}").touch()
    watched.wait_for_file(watched.root / "old/inner/29")
    (watched.root / "old/inner/last").touch()
    watched.wait_for_file(watched.root / "old/inner/last")
    assert [] == watched.missing()


def test_a_root_alone(watched: Watched) -> None:
    """`recursive: false`: neither folders below nor new ones."""
    watched.add(recursive=False)
    (watched.root / "old/a").touch()
    (watched.root / "new").mkdir()
    (watched.root / "new/a").touch()
    assert [] == watched.hints_until(watched.root / "last")


def test_links_to_folders_are_not_entered(watched: Watched, tmp_path: Path) -> None:
    """A link that was there, and one that comes."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (watched.root / "before").symlink_to(outside)
    watched.add()
    (watched.root / "later").symlink_to(outside)
    watched.wait_for_file(watched.root / "later")
    (outside / "a").touch()
    assert [] == watched.hints_until(watched.root / "last")


def test_a_root_that_cannot_be_watched(watched: Watched) -> None:
    """The error names why, and no descriptor is left."""
    descriptors = Descriptors()
    for path, number in (("none", errno.ENOENT), ("file", errno.ENOTDIR)):
        (watched.root / "file").touch()
        with pytest.raises(OSError, match=os.strerror(number)):
            watched.observer.add(str(watched.root / path), recursive=True)
    assert [] == descriptors.opened()
    assert watched.observer.alive
    assert watched.observer.descriptor(str(watched.root)) is None


def test_a_process_without_free_descriptors_leaves_none_open() -> None:
    """One is free, and two are needed."""
    descriptors = Descriptors()
    free = os.dup(0)
    os.close(free)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, limits[1]))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            Inotify()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert [] == descriptors.opened()


def test_no_descriptor_is_left(watched: Watched) -> None:
    """After a root was removed, and after the observer was stopped. Another one can be made."""
    descriptors = Descriptors()
    watched.add()
    watched.add()
    watched.observer.remove(str(watched.root))
    watched.observer.remove(str(watched.root))
    assert [] == descriptors.opened()
    watched.add()
    watched.observer.stop()
    assert not watched.observer.alive
    assert [] == descriptors.opened()
    second = Observer(watched.inbox)
    assert second.alive
    second.stop()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_closes_its_descriptor(watched: Watched) -> None:
    """Its next read fails. The observer says that it is not alive, and can be stopped."""
    descriptors = Descriptors()
    watched.add()
    assert watched.observer.alive
    descriptor = watched.observer.descriptor(str(watched.root))
    assert descriptor is not None
    folder = os.open(watched.root, os.O_RDONLY | os.O_DIRECTORY)
    os.dup2(folder, descriptor)  # to read a folder is an error
    os.close(folder)
    (watched.root / "a").touch()
    wait_until(lambda: not watched.observer.alive, "it has died")
    wait_until(lambda: not descriptors.opened(), "it has closed everything")
    assert watched.observer.descriptor(str(watched.root)) is None
    watched.observer.stop()
