"""The unit of the live page under a real systemd, beside that of the daemon."""

from __future__ import annotations

import json

import pytest

from tests.docs import markdown
from tests.support.booted import REPOSITORY, needs_systemd
from tests.support.home_server import wait_until
from tests.systemd.conftest import DISK, Service

pytestmark = [pytest.mark.slow, needs_systemd]

PRIVATE = "no" if REPOSITORY.is_relative_to("/tmp") else "yes"  # noqa: S108  else hidden
ASK = """
import json, urllib.error, urllib.request
def ask(path, **more):
    request = urllib.request.Request("http://127.0.0.1:8787" + path, **more)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode(), answer.headers.get("set-cookie", "")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), ""
"""
PAUSE = """
cookie = ask("/")[2].partition(";")[0]
headers = {"origin": "http://127.0.0.1:8787", "cookie": cookie}
print(json.dumps(ask("/all/pause", headers=headers, method="POST")[:2]))
"""


def ask(service: Service, code: str) -> str:
    """What a program on the machine prints."""
    return service.machine.run("python3", "-c", ASK + code).stdout


def test_the_page_beside_the_daemon(service: Service) -> None:
    """It shows the files, sends requests, writes nothing, and outlives the daemon."""
    machine = service.machine
    service.wait_for_file(service.drop(f"{DISK}/loras/page.safetensors", 70))
    page = (REPOSITORY / "docs/web.md").read_text(encoding="utf-8")
    pip, *lines = markdown.blocks(markdown.section(page, "As a service"))[0].text.splitlines()
    assert "pip install" in pip
    machine.shell("mkdir -p /etc/systemd/system/lensd-web.service.d")
    machine.path("/etc/systemd/system/lensd-web.service.d/tests.conf").write_text(
        f"[Service]\nEnvironment=PYTHONPATH={REPOSITORY}\nPrivateTmp={PRIVATE}\n"
    )
    for line in lines:
        command = line.removeprefix("$ ").replace("sudo ", "")
        done = machine.run("bash", "-c", f"cd '{REPOSITORY}'; {command}", check=False)
        journal = machine.run("journalctl", "-b", "-u", "lensd-web", "-n", "20", check=False)
        assert done.returncode == 0, done.stderr + journal.stdout
    assert machine.show("lensd-web", "ActiveState") == "active"
    assert "page." in ask(service, 'print(ask("/")[1])')
    status, answer = json.loads(ask(service, PAUSE))
    assert (status, json.loads(answer)["done"]) == (200, True)
    machine.shell("systemctl stop lensd")
    text = ""

    def is_shown() -> bool:
        nonlocal text
        text = ask(service, 'print(ask("/")[1])')
        return "The daemon is not running." in text

    wait_until(is_shown, "the page shows that the daemon ended")
    assert "page." in text
    machine.shell("systemctl restart lensd-web")  # it has never seen the daemon
    assert "page." in ask(service, 'print(ask("/")[1])')
    machine.shell("systemctl stop lensd-web")
    assert machine.show("lensd-web", "Result") == "success"
    machine.shell("systemctl start lensd")
    service.wait_for_event("daemon.ready")
    service.lensd("resume", "-c", "/etc/lensd/config.yaml")
