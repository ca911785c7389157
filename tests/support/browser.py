"""A real Chromium without a window, driven through its own driver."""

from __future__ import annotations

import base64
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

from tests.support.limits import PATIENCE

ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",  # root, in containers
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
    "--hide-scrollbars",
)


class NoBrowser(Exception):
    """No Chromium with its driver is on this machine."""


class Browser:
    """Chromium, its console messages and its network requests."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, page: Path, *, width: int = 1200, height: int = 1000) -> float:
        """Open a page; return the seconds until it is ready to use."""
        self.resize(width, height)
        began = time.monotonic()
        self.driver.get(page.as_uri())
        self.wait_for(lambda: self.js("return 'ready' in document.documentElement.dataset"))
        return time.monotonic() - began

    def resize(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def prefer(self, scheme: str) -> None:
        """`light` or `dark`, as the system's setting."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def wait_for(self, holds: Callable[[], Any], seconds: float = PATIENCE) -> None:
        """Raises AssertionError with the console messages."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, self.console()
            time.sleep(0.01)

    def console(self) -> list[str]:
        """Messages since the last call, with errors of scripts and of the content policy."""
        return [entry["message"] for entry in self._log("browser")]

    def asked_for(self) -> list[str]:
        """Every address that the page requested since the last call."""
        messages = [json.loads(e["message"])["message"] for e in self._log("performance")]
        sent = (m for m in messages if m["method"] == "Network.requestWillBeSent")
        return [m["params"]["request"]["url"] for m in sent]

    def _log(self, kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.driver.get_log(kind)  # type: ignore[no-untyped-call]
        return found

    def picture(self, clip: dict[str, float]) -> bytes:
        """A PNG of a part of the page, visible or not."""
        asked = {"clip": clip, "captureBeyondViewport": True}
        found = self.driver.execute_cdp_cmd("Page.captureScreenshot", asked)
        return base64.b64decode(found["data"])

    def accessible(self) -> list[tuple[str, str]]:
        """(role, name) of each node that a screen reader finds."""
        tree = self.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})
        nodes = [node for node in tree["nodes"] if not node["ignored"]]
        return [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes]


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A new browser with its profile in `folder`. Raises NoBrowser."""
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        raise NoBrowser("no chromium with chromedriver (Debian: chromium, chromium-driver)")
    binary, driver = map(str, programs)
    options = Options()
    options.binary_location = binary
    for argument in (*ARGUMENTS, f"--user-data-dir={folder}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield Browser(chrome)
    finally:
        chrome.quit()
