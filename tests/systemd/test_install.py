"""`lensd init` and `lensd service --install` on a booted machine."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.booted import Booted, needs_systemd
from tests.support.home_server import wait_until
from tests.support.limits import PATIENCE
from tests.support.realistic import small_lora

pytestmark = [pytest.mark.slow, needs_systemd]

LENSD = (sys.executable, "-m", "lensd")
CONFIG = "/etc/lensd/config.yaml"
INIT = ("init", "/srv/loras", "--archive", "/srv/lora-archive", "--yes")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Booted]:
    """With a person's folder of LoRAs, and a link to this lensd where pip would put it."""
    with Booted(tmp_path) as booted:
        booted.shell("useradd --uid 10001 anna && install -d -o anna /srv/loras")
        yield booted


def test_two_commands_make_a_service(machine: Booted) -> None:
    """The service runs as the owner of the files, compresses, and starts at the next boot."""
    done = machine.run(*LENSD, *INIT)
    assert f"wrote {CONFIG}" in done.stdout
    assert "service --install" in done.stdout
    machine.run(*LENSD, "service", "--install", "-c", CONFIG)
    assert machine.show("lensd", "ActiveState") == "active"
    assert machine.show("lensd", "User") == "anna"
    assert machine.shell("systemctl is-enabled lensd").strip() == "enabled"
    assert machine.shell("stat -c %U /srv/lora-archive").strip() == "anna"
    made = small_lora(machine.path("/srv/loras/style.part"), seed=1)
    os.chown(made.path, 10001, 10001)
    size = made.path.stat().st_size
    lora = made.path.rename(made.path.with_suffix(".safetensors"))
    deadline = time.monotonic() + PATIENCE
    while lora.stat().st_size == size:
        assert time.monotonic() < deadline, machine.shell("journalctl -u lensd -n 20")
        time.sleep(0.1)
    assert machine.path("/srv/lora-archive/loras/style.safetensors").stat().st_size == size


def test_the_command_is_found_by_root(machine: Booted) -> None:
    """A link in /usr/local/bin makes `sudo lensd check` work after an installation elsewhere."""
    machine.run(*LENSD, *INIT)
    machine.run(*LENSD, "service", "--install")
    assert os.readlink(machine.path("/usr/local/bin/lensd")) == os.path.join(
        os.path.dirname(sys.executable), "lensd"
    )


def test_a_second_installation_replaces_the_first(machine: Booted) -> None:
    """After a change of the configuration: the drop-in is that of the new one."""
    machine.run(*LENSD, *INIT)
    machine.run(*LENSD, "service", "--install")
    machine.shell(f"mkdir /opt/loras && sed -i 's#/srv/loras#/opt/loras#' {CONFIG}")
    machine.run(*LENSD, "service", "--install")
    assert machine.show("lensd", "ActiveState") == "active"
    assert "/opt" in machine.show("lensd", "ReadWritePaths").split()


def test_an_interpreter_of_root_is_refused_with_the_remedy(machine: Booted) -> None:
    """systemd would end with 203/EXEC; nothing is installed."""
    machine.run(*LENSD, *INIT)
    folder = Path(os.path.realpath(sys.base_prefix))
    private = next((p for p in folder.parents if p == Path("/root")), None)
    if private is None:
        pytest.skip("this Python is in a folder of all users")
    machine.run("chmod", "700", str(private))
    check = machine.run(*LENSD, "check")
    assert re.search("venv --clear|install lensd elsewhere", check.stdout + check.stderr)
    done = machine.run(*LENSD, "service", "--install", check=False)
    assert done.returncode == 4
    assert re.search("venv --clear|install lensd elsewhere", done.stderr)
    assert not machine.path("/etc/systemd/system/lensd.service").exists()


def _wait_for_first_look(machine: Booted) -> None:
    """lensd-notify sends nothing of what was before its first look, after which this is there."""
    cursor = machine.path("/var/lib/lensd/notified.json")
    wait_until(lambda: cursor.exists() and cursor.stat().st_size > 0, "its first look")


def test_messages_come_from_a_unit_of_their_own(machine: Booted) -> None:
    """lensd.service has no network; lensd-notify.service runs the command."""
    machine.run(*LENSD, *INIT)
    program = machine.path("/usr/local/bin/send-it")
    program.write_text("#!/bin/sh\n{ id -un; echo $LENSD_TITLE; } > /var/lib/lensd/sent\n")
    program.chmod(0o755)
    config = machine.path(CONFIG)
    text = config.read_text()
    for old, new in (
        ("command: null", "command: [/usr/local/bin/send-it]"),
        ("interval_seconds: 900", "interval_seconds: 0.5"),
    ):
        assert old in text
        text = text.replace(old, new)
    config.write_text(text)
    machine.run(*LENSD, "service", "--install")
    assert machine.show("lensd-notify", "ActiveState") == "active"
    assert machine.show("lensd", "RestrictAddressFamilies") == "AF_UNIX"
    assert "AF_INET" in machine.show("lensd-notify", "RestrictAddressFamilies")
    _wait_for_first_look(machine)
    made = small_lora(machine.path("/srv/loras/style.part"), seed=1)
    made.path.write_bytes(made.path.read_bytes()[:-2] + b"\xff\x7f")
    os.chown(made.path, 10001, 10001)
    made.path.rename(made.path.with_suffix(".safetensors"))
    sent = machine.path("/var/lib/lensd/sent")
    deadline = time.monotonic() + PATIENCE
    while not (sent.exists() and sent.read_text().endswith("\n")):
        assert time.monotonic() < deadline, machine.shell("journalctl -n 40")
        time.sleep(0.1)
    assert sent.read_text() == "anna\nlensd: 1 file failed\n"
    assert "may not use the network" in machine.shell("journalctl -u lensd -o cat")


RECEIVER = """
import http.server, json
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        open("/run/received", "ab").write(body + b"\\n")
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", 8099), Handler).serve_forever()
"""


def test_messages_reach_a_server_over_the_network(machine: Booted) -> None:
    """Through apprise, from lensd-notify.service; the unit of the daemon could not connect."""
    machine.run("systemd-run", "--quiet", "--unit=receiver", sys.executable, "-c", RECEIVER)
    machine.run(*LENSD, *INIT)
    config = machine.path(CONFIG)
    text = config.read_text()
    for old, new in (
        ("urls: []", "urls: ['json://127.0.0.1:8099/']"),
        ("interval_seconds: 900", "interval_seconds: 0.5"),
    ):
        assert old in text
        text = text.replace(old, new)
    config.write_text(text)
    machine.run(*LENSD, "service", "--install")
    _wait_for_first_look(machine)
    made = small_lora(machine.path("/srv/loras/style.part"), seed=1)
    made.path.write_bytes(made.path.read_bytes()[:-2] + b"\xff\x7f")
    os.chown(made.path, 10001, 10001)
    made.path.rename(made.path.with_suffix(".safetensors"))
    received = machine.path("/run/received")
    deadline = time.monotonic() + PATIENCE
    while not (received.exists() and received.read_text().endswith("\n")):
        assert time.monotonic() < deadline, machine.shell("journalctl -n 40")
        time.sleep(0.1)
    message = json.loads(received.read_text().splitlines()[0])
    assert message["title"] == "lensd: 1 file failed"
    assert "style.safetensors" in message["message"]
    assert "may not use the network" in machine.shell("journalctl -u lensd -o cat")


def test_the_page_runs_as_the_user_of_the_daemon(machine: Booted) -> None:
    """That is the owner of the files here, since only the owner of the ledger may read it."""
    machine.run(*LENSD, *INIT)
    machine.run(*LENSD, "service", "--install")
    machine.run(*LENSD, "service", "--install", "--unit", "web")
    assert machine.show("lensd-web", "ActiveState") == "active"
    assert machine.show("lensd-web", "User") == machine.show("lensd", "User") == "anna"
    ask = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8787/').read().decode())"
    assert "<strong>Watching.</strong>" in machine.run(sys.executable, "-c", ask).stdout


def test_only_root_installs(machine: Booted) -> None:
    """Another user gets the command with sudo."""
    machine.run(*LENSD, *INIT)
    done = machine.run(
        "setpriv", "--reuid", "10001", "--regid", "10001", "--clear-groups",
        *LENSD, "service", "--install", check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "only root can install a service: sudo " in done.stderr
