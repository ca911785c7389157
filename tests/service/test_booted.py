"""The real unit under a real systemd, with the drop-in that `lensd service` prints."""

from __future__ import annotations

import pytest

from tests.service.conftest import CONFIG, DISK, OTHER, Service
from tests.support.booted import needs_systemd

pytestmark = [pytest.mark.slow, needs_systemd]


def test_it_runs_as_its_user_with_nothing_more(service: Service) -> None:
    """User lensd without a capability; ready by notification."""
    machine = service.machine
    assert machine.show("lensd", "ActiveState") == "active"
    pid = machine.show("lensd", "MainPID")
    status = dict(
        line.split(":\t", 1)
        for line in machine.shell(f"cat /proc/{pid}/status").splitlines()
        if ":\t" in line
    )
    assert status["Uid"].split() == [machine.shell("id -u lensd").strip()] * 4
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


def test_a_dropped_file_is_compressed_and_its_original_linked(service: Service) -> None:
    """On one disk no byte is copied, under the hardened unit as well."""
    path = service.drop(f"{DISK}/loras/a.safetensors", 1)
    line = service.wait_for_file(path)
    assert (line["event"], line["archive_method"], line["lease"]) == ("file.compressed", "link", True)
    assert service.machine.path(line["archive_path"]).exists()
