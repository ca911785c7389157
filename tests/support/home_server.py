"""A home server in a temporary folder: its folders, its configuration, and lensd at work."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.support import outputs, prepared
from tests.support.limits import PATIENCE
from tests.support.realistic import SmallFile, small_lora
from tests.support.running import Line, RunningDaemon, parse_line

QUIET = 0.3
UNPROVEN = 1.2


class Seen(NamedTuple):
    """Content and attributes of a file. Equal before and after: no program changed it."""

    sha256: str
    mode: int
    owner: tuple[int, int]
    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> Seen:
        """Read a regular file."""
        found = path.lstat()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        owner = found.st_uid, found.st_gid
        return cls(digest, found.st_mode, owner, found.st_size, found.st_mtime_ns, found.st_ino)


class HomeServer:
    """A watched folder `loras`, an archive, a state folder, and the configuration for them.

    `new`: make the folders and write a configuration; without it, they are there.
    """

    def __init__(self, top: Path, *, new: bool = True) -> None:
        self.top = top
        self.loras = top / "loras"
        self.archive = top / "archive"
        self.state = top / "state"
        self.config = top / "config.yaml"
        self.stderr = top / "stderr"
        self.elsewhere = top / "elsewhere"  # on the same disk, not watched
        if new:
            for folder in (self.loras, self.archive, self.elsewhere):
                folder.mkdir()
            self.configure()

    def configure(
        self,
        *,
        watch: Sequence[Mapping[str, Any]] | None = None,
        defaults: Mapping[str, Any] | None = None,
        worker: Mapping[str, Any] | None = None,
        settle: Mapping[str, Any] | None = None,
        archive: Path | None = None,
        keep_days: int | None = None,
        max_size: str | None = None,
        metrics: Mapping[str, Any] | None = None,
        log: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the configuration."""
        document = {
            "watch": [{"path": str(self.loras)}] if watch is None else list(watch),
            "defaults": defaults or {},
            "archive": {"path": str(archive or self.archive), "keep_days": keep_days}
            | ({"max_size": max_size} if max_size else {}),
            "state": {"path": str(self.state)},
            "settle": {"quiet_seconds": QUIET, "unproven_seconds": UNPROVEN, **(settle or {})},
            "worker": {"device": "cpu", **(worker or {})},
            "metrics": metrics or {},
            "log": log or {},
        }
        self.config.write_text(json.dumps(document))  # JSON is YAML

    def daemon(
        self,
        *,
        prefix: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        forked: bool = False,
    ) -> RunningDaemon:
        """A daemon, to be entered with `with`."""
        return RunningDaemon(self.config, self.stderr, prefix=prefix, env=env, forked=forked)

    def lensd(
        self, verb: str, *arguments: str | Path, prefix: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run another command with this configuration; `prefix` is a command that runs lensd.

        What it prints with `--json` must be valid under its schema.
        """
        words = [verb, "-c", str(self.config), *map(str, arguments)]
        if prefix:
            command = [*prefix, sys.executable, "-m", "lensd", *words]
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=PATIENCE
            )
        else:
            done = prepared.run(words, os.getcwd())
        outputs.check((verb, *arguments), done.stdout)
        return done

    def begin(self, verb: str, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start another command with this configuration, and do not wait for its end."""
        command = [sys.executable, "-m", "lensd", verb, "-c", str(self.config), *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def once(self, *arguments: str | Path, code: int = 0) -> list[Line]:
        """Run `lensd once`, which must exit with `code`; return its log lines."""
        done = self.lensd("once", *arguments)
        assert done.returncode == code, done.stderr + done.stdout
        return [parse_line(text) for text in done.stdout.splitlines()]

    def status(self) -> dict[str, Any]:
        """`lensd status --json`."""
        done = self.lensd("status", "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def drop(self, relative: str, **of_file: Any) -> SmallFile:
        """Put a small LoRA into the watched folder in one step, as a finished download."""
        made = self.make(os.path.basename(relative), **of_file)
        return made._replace(path=self.move_in(made.path, relative))

    def make(self, name: str, **of_file: Any) -> SmallFile:
        """Write a small LoRA outside of the watched folder."""
        return small_lora(self.elsewhere / name, **of_file)

    def move_in(self, path: Path, relative: str | None = None) -> Path:
        """Move a file into the watched folder."""
        target = self.loras / (relative or path.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
        return target

    def temporaries(self) -> list[Path]:
        """lensd's own unfinished files in the watched folder and in the archive."""
        return temporaries_below(self.loras, self.archive)

    def archived(self, path: Path) -> Path:
        """Where the archive keeps the original of a file in the watched folder."""
        return self.archive / self.loras.name / path.relative_to(self.loras)


def below(folder: Path) -> Iterator[Path]:
    """All that lies below a folder; `Path.rglob` raises when a folder goes meanwhile."""
    for top, folders, files in os.walk(folder):
        yield from (Path(top, name) for name in (*folders, *files))


def temporaries_below(*folders: Path) -> list[Path]:
    """lensd's own unfinished files there."""
    return [p for folder in folders for p in below(folder) if p.name.startswith(".lensd-")]


def wait_until(holds: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Return when the condition is true. Raises AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)
