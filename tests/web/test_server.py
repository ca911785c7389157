"""`lensd web` without a browser: its answers, its headers, what it refuses, and its memory."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lensd.web.protection import POLICY
from lensd.web.server import CONNECTIONS
from tests.support.home_server import HomeServer
from tests.support.limits import PATIENCE
from tests.support.terminal import AtTerminal
from tests.support.web import Web, serving
from tests.web.refusals import REFUSALS, Refusal

TOKEN = "0123456789abcdef"  # noqa: S105  of the tests
EVIL = "</script><img src=x onerror=document.title=1>"


class Tags(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, list[tuple[str, str | None]]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called for each of them."""
        self.found.append((tag, attrs))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> HomeServer:
    """After one run: a compressed file with a hostile name, and a failed one."""
    server = HomeServer(tmp_path_factory.mktemp("server"))
    server.drop(f"sub/{EVIL}.safetensors", seed=1, effective_rank=2.0)
    bad = server.drop("bad.safetensors", seed=4).path
    bad.write_bytes(bad.read_bytes()[:-2] + b"\xff\x7f")
    server.once(code=1)
    return server


@pytest.fixture(scope="module")
def web(server: HomeServer) -> Iterator[Web]:
    with serving(server.config) as found:
        found.open_session()
        yield found


def test_a_terminal_shows_how_to_end_it(server: HomeServer) -> None:
    """The address and ^C; the end has a line and exit code 0."""
    command = [sys.executable, "-m", "lensd", "web", "-c", str(server.config)]
    with AtTerminal([*command, "--listen", "127.0.0.1:0"], server.top, columns=60) as terminal:
        terminal.wait_for(r"^lensd: the page is at http://127\.0\.0\.1:\d+/ \(\^C ends it\)$")
        terminal.signal(signal.SIGINT)
        assert terminal.wait() == 0
    assert terminal.lines[1:] == ["lensd: stopped"]


@pytest.fixture(scope="module")
def closed(server: HomeServer) -> Iterator[Web]:
    """A server that asks for a token."""
    token = server.top / "token"
    token.write_text(f"{TOKEN}\n")
    token.chmod(0o600)
    with serving(server.config, "--token-file", str(token)) as found:
        yield found


def test_each_page_answers_with_its_headers(web: Web) -> None:
    """The first page has no inline script or style, and names as text."""
    page = web.get("/")
    assert page.status == 200
    job = re.search(r"/files/([0-9a-f]{16})", page.text)
    assert job is not None
    for path in ("/table", "/savings", f"/files/{job[1]}", f"/files/{job[1]}/data"):
        assert web.get(path).status == 200, path
    statics = re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text)
    assert len(statics) > 6
    for path in (*statics, "/", "/nothing"):
        headers = web.get(path).headers
        assert headers["content-security-policy"] == POLICY
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers
    assert "unsafe" not in POLICY
    tags = Tags()
    tags.feed(page.text)
    assert not {"style", "img", "iframe"} & {name for name, _ in tags.found}
    scripts = [dict(attributes) for name, attributes in tags.found if name == "script"]
    assert [s["src"] for s in scripts] == [p for p in statics if p.endswith(".js")]
    names = {name for _, attributes in tags.found for name, _ in attributes}
    assert not [name for name in names if name.startswith("on") or name == "style"]
    assert re.fullmatch(
        r"lensd-[0-9a-f]{8}=[0-9a-f]{64}; HttpOnly; Path=/; SameSite=strict",
        page.headers["set-cookie"],
    )


def test_no_path_of_the_disk(web: Web, server: HomeServer) -> None:
    """Pages name files as below the watched folder, also in messages and lines of the log."""
    page = web.get("/").text
    jobs = set(re.findall(r"/files/([0-9a-f]{16})", page))
    assert len(jobs) == 2
    texts = [page, *(web.get(f"/files/{job}").text for job in jobs)]
    assert "loras/<wbr>bad.<wbr>safetensors" in page
    for text in texts:
        assert str(server.top) not in text


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda r: r.what)
def test_refused_requests(web: Web, closed: Web, server: HomeServer, refusal: Refusal) -> None:
    """Each is answered with its status, and changes nothing."""
    target = closed if refusal.with_token else web
    headers = {
        name: value.format(own=target.address, cookie=target.cookie)
        for name, value in refusal.headers.items()
    }
    found = target.request(
        refusal.method,
        refusal.path,
        {name.replace("-", "_"): value for name, value in headers.items()},
    )
    assert found.status == refusal.status, found
    assert "root:" not in found.text
    assert server.status()["paused"] == []


def test_the_token_opens_the_pages(closed: Web) -> None:
    """A browser is led to the form; the cookie of the right token opens the pages."""
    led = closed.get("/", accept="text/html")
    assert (led.status, led.headers["location"]) == (303, "/login")
    assert closed.get("/login").status == 200
    wrong = closed.post("/login", "token=wrong")
    assert wrong.status == 403
    assert "set-cookie" not in wrong.headers
    right = closed.post("/login", f"token={TOKEN}")
    assert right.status == 303
    cookie = right.headers["set-cookie"].partition(";")[0]
    assert closed.get("/", cookie=cookie).status == 200
    assert closed.get("/savings", cookie=cookie).status == 200


def test_without_a_daemon_nothing_is_changed(web: Web, server: HomeServer) -> None:
    """A button says that the daemon does not run."""
    answer = web.post("/all/pause")
    assert answer.status == 409
    assert "daemon is not running" in json.loads(answer.text)["said"]
    assert "The daemon is not running." in web.get("/").text
    assert server.status()["paused"] == []


def test_search_filter_and_order(web: Web) -> None:
    """By the parameters of the address; values that make no sense count as not given."""

    def names(address: str) -> list[str]:
        found = re.findall(r'<th scope="row"><a [^>]*title="([^"]+)"', web.get(address).text)
        return [name.rpartition(".")[0] for name in found]

    assert names("/table?search=BAD") == ["bad"]
    assert names("/table?outcome=failed") == ["bad"]
    assert len(names("/table?folder=loras/sub")) == 1
    assert len(names("/table?folder=loras")) == 2
    for down in "01":  # a file without a value comes last
        assert names(f"/table?sort=after&down={down}")[-1] == "bad"
    assert len(names("/table?sort=nothing&page=x&down=maybe")) == 2
    assert len(names("/table?page=9")) == 2  # the last page
    assert names("/table?search=%25") == []


def test_before_the_first_file(tmp_path: Path) -> None:
    """The page says what to do; it shows no sum that is no news; a filter says what is wrong."""
    server = HomeServer(tmp_path)
    server.once()
    with serving(server.config) as web:
        page = web.get("/").text
        assert "<code>lensd run</code> starts it" in page
        assert "No file has been processed yet." in page
        assert "in use than before" not in page
        assert "No file matches" in web.get("/table?search=nothing").text


def test_without_a_ledger(tmp_path: Path) -> None:
    """The page says that lensd has not run yet."""
    server = HomeServer(tmp_path)
    with serving(server.config) as web:
        page = web.get("/")
        assert page.status == 200
        assert "there is no ledger in state yet" in page.text
        assert "lensd has not run with this configuration" in page.text
        assert str(tmp_path) not in page.text
        assert web.get("/savings").status == 503


def test_a_ledger_that_goes_or_is_damaged(tmp_path: Path) -> None:
    """The page says what is wrong with the ledger, goes on, and prints no traceback."""
    server = HomeServer(tmp_path)
    server.drop("a.safetensors", seed=1, effective_rank=2.0)
    server.once()
    ledger = server.state / "ledger.sqlite3"
    with serving(server.config) as web:
        address = re.findall(r'href="(/files/\w+)"', web.get("/").text)[0]
        away = ledger.rename(tmp_path / "away")
        page = web.get("/")
        assert page.status == 200
        assert "there is no ledger in state yet" in page.text
        assert "lensd ends" not in page.text
        away.rename(ledger)
        assert web.get("/table").status == 200
        with ledger.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (ledger.stat().st_size - 4096))
        answer = web.get(address)
        assert answer.status == 503
        assert "the ledger in state cannot be read" in answer.text
        assert str(tmp_path) not in answer.text
        web.process.terminate()
        assert web.process.stderr is not None
        assert "Traceback" not in web.process.stderr.read()


@pytest.mark.parametrize("command", [["web"], ["service", "--install", "--unit", "web"]])
def test_without_its_packages_the_remedy_is_named(tmp_path: Path, command: list[str]) -> None:
    """Before a unit is installed that could not start."""
    server = HomeServer(tmp_path)
    code = "import sys; sys.modules['uvicorn'] = None; from lensd.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *command, "-c", str(server.config)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "needs uvicorn: install lensd again in its clone, with '.[web]'" in done.stderr


def test_faults_of_the_command_line(tmp_path: Path) -> None:
    """Each message names the remedy, and the exit code is 2."""
    server = HomeServer(tmp_path)
    token = tmp_path / "token"
    token.write_text("short")
    token.chmod(0o600)
    lines = tmp_path / "lines"  # as `openssl rand -base64 64` makes it
    lines.write_text(f"{TOKEN}\n{TOKEN}\n")
    lines.chmod(0o600)
    open_token = tmp_path / "open"
    open_token.write_text(TOKEN)
    open_token.chmod(stat.S_IRUSR | stat.S_IROTH)
    for arguments, said in (
        (["--listen", "0.0.0.0:8787"], "add --token-file"),
        (["--listen", "here"], "no ADDRESS:PORT"),
        (["--token-file", str(token)], "openssl rand"),
        (["--token-file", str(open_token)], "chmod 600"),
        (["--token-file", str(tmp_path / "none")], "cannot be read: No such file or directory; "),
        (["--token-file", str(lines)], "has several lines"),
        (["--name", "nas.local:8787"], "without the port, e.g. nas.local"),
        (["--name", "http://nas.local"], "without http://"),
    ):
        done = server.lensd("web", *arguments)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("{own}", "another program uses the port"),
        ("192.0.2.1:8787", "name an address of this machine"),
        ("256.1.1.1:8787", "choose another address"),
    ],
)
def test_an_address_that_cannot_be_served(
    web: Web, server: HomeServer, address: str, said: str
) -> None:
    """The remedy fits the cause."""
    token = server.top / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    listen = ["--listen", address.format(own=web.host), "--token-file", str(token)]
    done = server.lensd("web", *listen)
    assert done.returncode == 5, done.stderr
    assert said in done.stderr


@pytest.mark.slow
def test_connections_without_a_request_are_closed(web: Web) -> None:
    """Else a few dozen of them keep everybody out for ever."""
    host, port = web.host.split(":")
    head = f"Host: {web.host}\r\nOrigin: {web.address}\r\nCookie: {web.cookie}\r\n"
    beginnings = (
        "",
        "GET / HTTP/1.1\r\n",
        f"POST /login HTTP/1.1\r\n{head}Content-Length: 9\r\n\r\ntok",
    )
    with contextlib.ExitStack() as stack:
        sockets = []
        for number in range(CONNECTIONS):
            connection = stack.enter_context(socket.create_connection((host, int(port)), PATIENCE))
            connection.sendall(beginnings[number % len(beginnings)].encode())
            sockets.append(connection)
        assert web.get("/").status == 503
        for connection in sockets:
            while connection.recv(65536):
                pass
    assert web.get("/").status == 200
