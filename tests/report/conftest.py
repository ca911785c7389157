"""A home server with files of all outcomes, and a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.browser import Browser, NoBrowser, chromium
from tests.support.home_server import HomeServer

EVIL = "</script><img src=x onerror=document.title=1>"
BAD = "bad<b>&lt;'.safetensors"
SEPARATED = "a\u2028b\u202ec\x1b[31m"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> HomeServer:
    """After one run: compressed files, some with markup as names, a skipped and a failed file."""
    server = HomeServer(tmp_path_factory.mktemp("server"))
    server.drop("good.safetensors", seed=1, effective_rank=2.0)
    server.drop(f"sub/{EVIL}.safetensors", seed=2, rank=8)
    server.drop(f"{SEPARATED}.safetensors", seed=3)
    (server.loras / "page.safetensors").write_text("<html>not found</html>")
    bad = server.drop(BAD, seed=4).path
    bad.write_bytes(bad.read_bytes()[:-2] + b"\xff\x7f")
    done = server.lensd("once")
    assert done.returncode == 1, done.stderr
    (server.top / "lensd.log").write_text(done.stdout)
    return server


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests of a process; they are skipped if there is none."""
    try:
        with chromium(tmp_path_factory.mktemp("profile")) as found:
            yield found
    except NoBrowser as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def page(server: HomeServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page from the server's ledger."""
    target = tmp_path_factory.mktemp("page") / "report.html"
    done = server.lensd("report", "--html", target)
    assert done.returncode == 0, done.stderr
    return target
