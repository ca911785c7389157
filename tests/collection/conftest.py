"""`lensd batch` as a child process, and real stores."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support import prepared, stores
from tests.support.realistic import small_lora

Row = dict[str, Any]


class Batch(NamedTuple):
    """Runs `lensd batch` in a folder. Small files save less than 5 %: `--min-saving 0`."""

    folder: Path
    env: Mapping[str, str] = {}

    @property
    def whole_env(self) -> dict[str, str]:
        return {**os.environ, **self.env}

    def command(self, *arguments: object) -> list[str]:
        given = [str(argument) for argument in arguments]
        return [sys.executable, "-m", "lensd", "batch", *given]

    def run(self, *arguments: object, code: int = 0) -> str:
        """Returns what it says on stderr. The exit code must be `code`."""
        words = list(map(str, arguments))
        done = prepared.run(["batch", *words], self.folder, self.whole_env)
        assert code == done.returncode, done.stderr
        return done.stdout + done.stderr

    def rows(self, manifest: str = "lensd-manifest.jsonl") -> dict[str, Row]:
        """The rows of a manifest by the names of the objects."""
        lines = (self.folder / manifest).read_text().splitlines()
        found = [json.loads(line) for line in lines]
        return {os.path.basename(row["path"]): row for row in found}


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    return Batch(tmp_path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with three LoRAs, two of them in a folder below."""
    folder = tmp_path / "source"
    (folder / "more").mkdir(parents=True)
    for seed, name in enumerate(("a", "more/b", "more/c")):
        small_lora(folder / f"{name}.safetensors", seed=seed)
    return folder


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[stores.S3]:
    with stores.s3(tmp_path_factory.mktemp("s3")) as found:
        yield found


@pytest.fixture(scope="session")
def sftp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[stores.SftpServer]:
    with stores.sftp(tmp_path_factory.mktemp("sftp")) as found:
        yield found


def files_of(folder: Path) -> dict[str, bytes]:
    """The content of all files below a folder, by path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
