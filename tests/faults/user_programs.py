"""What a user and other programs do with LoRAs, at random, and the bytes that must not be lost.

`UserPrograms` keeps a model: for each watched path the original that its user expects there, and
the byte strings that are owed: a program completed writing them under a watched name, and no
program overwrote or deleted them under that name. lensd must have each of them under a name, in
the archive or in `rescued/`.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import random
import shutil
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tests.support.home_server import below
from tests.support.realistic import small_lora

ORIGINAL_MARK = "lensd.original_sha256"
_FOLDERS = ("", "", "styles", "people/new")
_NAMES = 10  # few, so that operations meet
_COMMIT_SECONDS = 2.0
_RENAME_EXCHANGE = 2


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def original_of(data: bytes) -> str | None:
    """The hash of the original that an output of lensd names; None for any other file."""
    if len(data) < 8:
        return None
    (length,) = struct.unpack("<Q", data[:8])
    try:
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    except (ValueError, AttributeError):
        return None
    found = metadata.get(ORIGINAL_MARK)
    return found if isinstance(found, str) else None


def exchange(one: Path, other: Path) -> None:
    """renameat2(2), which Python does not have."""
    libc = ctypes.CDLL(None, use_errno=True)
    paths = os.fsencode(one), os.fsencode(other)
    if libc.renameat2(-100, paths[0], -100, paths[1], _RENAME_EXCHANGE):
        raise OSError(ctypes.get_errno(), "renameat2", str(one), None, str(other))


class UserPrograms:
    """All programs but lensd that use the watched folders `roots`. One operation at a time.

    Exception: `hold` opens a file now and writes to it later, in a thread of its own.
    """

    def __init__(self, roots: list[Path], workshop: Path, dice: random.Random) -> None:
        self.roots = roots
        self.expected: dict[Path, str] = {}  # the original that a path stands for
        self.owed: dict[str, str] = {}  # what completed it
        self.edited: set[str] = set()  # outputs that a user changed
        self._workshop = workshop
        self._dice = dice
        self._lock = threading.Lock()  # the writers in threads change the model, too
        self._held: dict[Path, threading.Thread] = {}
        self._made = 0
        self.operations: list[Callable[[], str]] = [
            *[self.drop] * 5,
            *[self.write_slowly] * 2,
            *[self.overwrite] * 2,
            *[self.replace] * 2,
            *[self.hold] * 3,
            *[self.rename] * 3,
            self.rename_onto,
            self.rename_folder,
            self.copy,
            *[self.copy_onto] * 2,
            self.delete,
            self.edit,
            self.touch,
        ]

    # operations

    def drop(self) -> str:
        """A download that gets its name when it is complete."""
        return self._put(self._any_name(), "drop")

    def replace(self) -> str:
        """A new file is renamed over one that is there."""
        path = self._some_file()
        return "nothing" if path is None else self._put(path, "replace")

    def write_slowly(self) -> str:
        """A program writes a new file in place, in two parts."""
        path = self._any_name()
        if path in self._held or path.exists():
            return "nothing"
        data = self._make()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(data[: len(data) // 2])
            file.flush()
            time.sleep(self._dice.uniform(0, 1))
            file.write(data[len(data) // 2 :])
        self._completed(path, data, "write_slowly")
        return f"write_slowly {path}"

    def overwrite(self) -> str:
        """A program overwrites a file in place."""
        path = self._some_file()
        if path is None:
            return "nothing"
        self._write_into(path, self._make(), 0.0, "overwrite")
        return f"overwrite {path}"

    def hold(self) -> str:
        """As `overwrite`, but the program has the file open for a while before it writes."""
        path = self._some_file()
        if path is None:
            return "nothing"
        data, wait = self._make(), self._dice.uniform(0.1, 3)
        writer = threading.Thread(target=self._write_into, args=(path, data, wait, "hold"))
        self._held[path] = writer
        writer.start()
        return f"hold {path} for {wait:.1f} s"

    def edit(self) -> str:
        """A program changes one byte of a file, an output of lensd or not."""
        path = self._some_file()
        if path is None:
            return "nothing"
        with path.open("r+b") as file:
            before = file.read()
            self._destroyed(before)
            at = self._dice.randrange(len(before) // 2, len(before))
            after = before[:at] + bytes([before[at] ^ 1]) + before[at + 1 :]
            file.seek(at)
            file.write(after[at : at + 1])
        self.edited.add(sha256_of(after))
        self._completed(path, after, "edit")
        return f"edit {path}"

    def note_restored(self, path: Path) -> None:
        """A command gave a file its original back.

        It does so for an edited output too, where a lost ledger cannot tell that it was edited.
        """
        if self.expected[path] in self.edited and path.exists():
            found = sha256_of(path.read_bytes())
            if found in self.owed:
                self.expected[path] = found

    def rename(self) -> str:
        """A file moves to a free name, perhaps in the other folder."""
        path, target = self._some_file(), self._any_name()
        if path is None or target.exists() or target in self._held:
            return "nothing"
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
        with self._lock:
            self.expected[target] = self.expected.pop(path)
        return f"rename {path} to {target}"

    def rename_onto(self) -> str:
        """A file moves to the name of another one."""
        path, target = self._some_file(), self._some_file()
        if path is None or target is None or path == target:
            return "nothing"
        self._displace(path, target)
        with self._lock:
            self.expected[target] = self.expected.pop(path)
        return f"rename {path} onto {target}"

    def rename_folder(self) -> str:
        """A folder with all its files gets another name."""
        folders = [p for root in self.roots for p in root.iterdir() if p.is_dir()]
        if self._held or not folders:
            return "nothing"
        folder = self._dice.choice(folders)
        target = self._dice.choice(self.roots) / f"moved{self._next()}"
        folder.rename(target)
        with self._lock:
            for path in [p for p in self.expected if p.is_relative_to(folder)]:
                self.expected[target / path.relative_to(folder)] = self.expected.pop(path)
        return f"rename folder {folder} to {target}"

    def copy(self) -> str:
        """A copy of a file under a free name; a copy of an output stands for the same original."""
        path, target = self._some_file(), self._any_name()
        if path is None or target.exists() or target in self._held:
            return "nothing"
        made = self._workshop / "copy"
        shutil.copyfile(path, made)
        data = made.read_bytes()
        target.parent.mkdir(parents=True, exist_ok=True)
        made.rename(target)
        self._copied(target, data, "copy")
        return f"copy {path} to {target}"

    def copy_onto(self) -> str:
        """A copy of a file replaces another one, in place or by a rename."""
        path, target = self._some_file(), self._some_file()
        if path is None or target is None or path == target:
            return "nothing"
        made = self._workshop / "copy"
        (shutil.copy2 if self._dice.random() < 0.5 else shutil.copyfile)(path, made)
        data = made.read_bytes()
        if self._dice.random() < 0.5:
            self._displace(made, target)
        else:
            with target.open("r+b") as file:
                self._destroyed(file.read())
                file.seek(0)
                file.truncate()
                file.write(data)
        self._copied(target, data, "copy_onto")
        return f"copy {path} onto {target}"

    def delete(self) -> str:
        """A file is deleted. What the archive has of it stays owed."""
        path = self._some_file()
        if path is None:
            return "nothing"
        self._displace(None, path)
        with self._lock:
            del self.expected[path]
        return f"delete {path}"

    def touch(self) -> str:
        """A program changes attributes and no bytes."""
        path = self._some_file()
        if path is None:
            return "nothing"
        path.chmod(self._dice.choice((0o600, 0o640, 0o644)))
        os.utime(path)
        return f"touch {path}"

    # for the test

    def finish(self) -> None:
        """Wait for the programs that have a file open."""
        for writer in list(self._held.values()):
            writer.join()
        self._held.clear()

    def free_files(self) -> list[Path]:
        """The watched files that no program of the user has open."""
        self._held = {path: w for path, w in self._held.items() if w.is_alive()}
        return sorted(path for path in self.expected if path not in self._held)

    def missing(self, places: Iterable[Path]) -> dict[str, str]:
        """What is owed and lies nowhere below `places`."""
        found = {sha256_of(data) for data in _contents(places)}
        with self._lock:
            return {sha256: what for sha256, what in self.owed.items() if sha256 not in found}

    # the model

    def _some_file(self) -> Path | None:
        files = [path for path in self.free_files() if path.exists()]
        return self._dice.choice(files) if files else None

    def _any_name(self) -> Path:
        folder = self._dice.choice(self.roots) / self._dice.choice(_FOLDERS)
        return folder / f"{self._dice.randrange(_NAMES)}.safetensors"

    def _next(self) -> int:
        self._made += 1
        return self._made

    def _make(self) -> bytes:
        path = self._workshop / "made"
        small_lora(path, seed=self._next(), rank=self._dice.choice((8, 16)))
        return path.read_bytes()

    def _put(self, path: Path, what: str) -> str:
        if path in self._held and self._held[path].is_alive():
            return "nothing"
        data = self._make()
        complete = self._workshop / "complete"
        complete.write_bytes(data)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            self._displace(complete, path)
        else:
            complete.rename(path)
        self._completed(path, data, what)
        return f"{what} {path}"

    def _write_into(self, path: Path, data: bytes, wait: float, what: str) -> None:
        with path.open("r+b") as file:
            time.sleep(wait)
            self._destroyed(file.read())
            file.seek(0)
            file.truncate()
            file.write(data)
        self._completed(path, data, what)

    def _displace(self, source: Path | None, target: Path) -> None:
        """Delete `target`, or rename `source` onto it; those bytes are then not owed any more."""
        if self._dice.random() < 0.5:
            self._displace_in_one_call(source, target)
            return
        displaced = self._workshop / "displaced"
        if source is None:
            target.rename(displaced)
        else:
            exchange(source, target)
            source.rename(displaced)
        self._destroyed(displaced.read_bytes())

    def _displace_in_one_call(self, source: Path | None, target: Path) -> None:
        """What the call destroys is not known exactly while lensd exchanges names: wait."""
        deadline = time.monotonic() + _COMMIT_SECONDS
        while any(target.parent.glob(".lensd-*")) and time.monotonic() < deadline:
            time.sleep(0.01)
        self._destroyed(target.read_bytes())
        if source is None:
            target.unlink()
        else:
            source.rename(target)

    def _destroyed(self, data: bytes) -> None:
        with self._lock:
            self.owed.pop(sha256_of(data), None)

    def _copied(self, path: Path, data: bytes, what: str) -> None:
        """A copy of an output stands for the same original; any other one is what it is."""
        original = original_of(data)
        if original is None or sha256_of(data) in self.edited:
            self._completed(path, data, what)
        else:
            with self._lock:
                self.expected[path] = original

    def _completed(self, path: Path, data: bytes, what: str) -> None:
        with self._lock:
            self.owed[sha256_of(data)] = f"{what} {path}"
            self.expected[path] = sha256_of(data)


def _contents(places: Iterable[Path]) -> Iterator[bytes]:
    for place in places:
        for path in below(place):
            try:
                if path.is_file():
                    yield path.read_bytes()
            except FileNotFoundError:  # renamed meanwhile; the caller looks again
                continue
