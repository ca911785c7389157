"""Draw `docs/pictures/web*.png`: the page of `lensd web` in Chromium, while a daemon works.

Run it from the top of the tree with `python -m bench.web_pictures`. The ledger is generated
(tests/support/many_files.py); the job under way is real.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from bench.report_pictures import PHONE, PHONE_HEIGHT, WIDTH, clip_of, save_beside
from lensd.daemon.control import send_request
from lensd.daemon.control_messages import Step, StepRequest
from tests.support import many_files
from tests.support.browser import Browser, chromium
from tests.support.held import held_when
from tests.support.home_server import HomeServer
from tests.support.realistic import write_lora
from tests.support.running import RunningDaemon
from tests.support.web import serving

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
FILES = 640
NAMES = ("watercolor_portrait_v2", "neon_harbor_v1", "film_grain_v7")
PATIENCE = 120.0  # seconds until the job under way has a bar


def main(pictures: Path = PICTURES) -> int:
    os.environ["TZ"] = "UTC"
    time.tzset()
    with tempfile.TemporaryDirectory(prefix="lensd-bench-") as name:
        server = HomeServer(Path(name))
        many_files.write_ledger(server.state, server.loras, FILES, different=FILES, seed=3)
        with server.daemon() as daemon:
            daemon.wait_for(lambda line: line["event"] == "daemon.ready", "ready")
            with serving(server.config) as web, chromium(server.top / "profile") as browser:
                browser.resize(WIDTH, 1000)
                browser.driver.get(web.address)
                work(server, daemon)
                worker = daemon.wait_for_event("worker.started")["pid"]
                with held_when(worker, lambda: is_half_done(server), "a job is about half done"):
                    draw(browser, pictures)
    print("web.png, web-dark.png, web-file.png and web-phone.png are drawn")
    return 0


def draw(browser: Browser, pictures: Path) -> None:
    """The first page on a wide screen and on a phone, both also dark, and the page of a file."""
    for scheme, kind in (("light", ""), ("dark", "-dark")):
        browser.prefer(scheme)
        wait_for_bar(browser)
        page = browser.picture(clip_of(0, end_of(browser, "#rows tr:nth-child(10)"), WIDTH))
        save_beside([page], pictures / f"web{kind}.png")
    browser.resize(PHONE, 1000)
    sides = []
    for scheme in ("light", "dark"):
        browser.prefer(scheme)
        wait_for_bar(browser)
        sides.append(browser.picture(clip_of(0, PHONE_HEIGHT, PHONE)))
    save_beside(sides, pictures / "web-phone.png")
    browser.resize(WIDTH, 1000)
    link = "return document.querySelector('#rows tr:has(.much) a').href"
    browser.driver.get(browser.js(link))
    browser.wait_for(lambda: browser.js("return 'ready' in document.documentElement.dataset"))
    page = browser.picture(clip_of(0, end_of(browser, "#versions-title"), WIDTH))
    save_beside([page], pictures / "web-file.png")


def work(server: HomeServer, daemon: RunningDaemon) -> None:
    """Files in the daemon's queue, the first of which begins, and one that is not complete."""
    server.lensd("pause").check_returncode()
    for seed, name in enumerate(NAMES):
        made = server.elsewhere / f"{name}.safetensors"
        write_lora(made, seed=seed)
        daemon.wait_for_file(server.move_in(made, f"style/{made.name}"), "file.settled")
    (server.loras / "style/ink_wash_v3.safetensors.part").write_bytes(b"")
    (server.loras / "style/ink_wash_v3.safetensors").write_bytes(bytes(100))
    server.lensd("resume").check_returncode()


def is_half_done(server: HomeServer) -> bool:
    steps: list[object] = []
    send_request(str(server.state), StepRequest(), steps.append)
    return any(isinstance(s, Step) and 0.3 * s.of < s.done < 0.8 * s.of for s in steps)


def wait_for_bar(browser: Browser) -> None:
    """Until a job has a bar that is not at its begin."""
    value = "return document.querySelector('progress')?.value ?? 0"
    browser.wait_for(lambda: 0.2 < browser.js(value) < 0.9, PATIENCE)


def end_of(browser: Browser, selector: str) -> float:
    script = "return document.querySelector(arguments[0]).getBoundingClientRect().bottom + scrollY"
    return float(browser.js(script, selector))


if __name__ == "__main__":
    sys.exit(main())
