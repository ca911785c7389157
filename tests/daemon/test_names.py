"""Names that people and file systems allow and programs trip over."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from tests.daemon.conftest import Running
from tests.support.home_server import Seen, wait_until

NAMES = {
    "not_utf8": b"caf\xe9-\xff.safetensors",
    "newline": b"two\nlines.safetensors",
    "longest": b"l" * (255 - len(".safetensors")) + b".safetensors",
    "quotes": b'it\'s "quoted" \\ $HOME.safetensors',
    "unicode": "絵 \u2028 \U0001f600.safetensors".encode(),
    "control": b"bell\x07\x1b[31m.safetensors",
}


@pytest.mark.parametrize("case", NAMES)
@pytest.mark.fault("names")
def test_any_name_is_processed(running: Running, case: str) -> None:
    """Compressed, archived under its name and named in one valid line, exact in `path_b64`."""
    server, daemon = running
    name = NAMES[case]
    made = server.make("source", seed=1)
    before = Seen.of(made.path)
    target = os.fsencode(server.loras) + b"/" + name
    os.rename(made.path, target)
    line = daemon.wait_for_event("file.compressed")
    path = Path(os.fsdecode(target))
    if "path_b64" in line:
        assert base64.b64decode(line["path_b64"]) == target
    else:
        assert line["path"] == str(path)
    assert ("path_b64" in line) == (case == "not_utf8")
    assert Seen.of(server.archived(path)).sha256 == before.sha256 == line["sha256_in"]
    assert Seen.of(path).sha256 == line["sha256_out"]
    assert server.lensd("status").returncode == 0
    assert [] == server.temporaries()


@pytest.mark.fault("names")
def test_a_waiting_file_whose_name_is_not_utf8(running: Running) -> None:
    """The reason names its partner: `status` shows it, the daemon lives on."""
    server, daemon = running
    target = os.fsencode(server.loras) + b"/wait\xff.safetensors"
    partner = target + b".part"
    with open(partner, "wb"):
        os.rename(server.make("source", seed=2).path, target)
    wait_until(lambda: bool(server.status()["waiting"]), "it waits")
    assert "wait\\xff.safetensors.part" in server.status()["waiting"][0]["reason"]
    os.unlink(partner)
    line = daemon.wait_for_event("file.compressed")
    assert base64.b64decode(line["path_b64"]) == target


@pytest.mark.fault("names")
def test_a_refused_file_whose_name_is_not_utf8(running: Running) -> None:
    """A file that ends otherwise than well, under such a name."""
    server, daemon = running
    target = os.fsencode(server.loras) + b"/empty\xfe.safetensors"
    with open(target, "wb"):
        pass
    line = daemon.wait_for_event("file.skipped")
    assert base64.b64decode(line["path_b64"]) == target
    assert line["reason"] == "empty"
    assert server.lensd("status").returncode == 0
