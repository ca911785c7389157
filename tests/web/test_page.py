"""The page in a real browser, with a real daemon."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from lensd.text import visible
from tests.report.test_page import COLOURS, NEEDS_A_NAME, contrast
from tests.support.browser import Browser
from tests.support.held import held_when
from tests.support.home_server import HomeServer, Seen, wait_until
from tests.support.limits import PATIENCE
from tests.support.realistic import write_lora
from tests.support.running import Line, RunningDaemon, parse_line, whole_lines
from tests.support.web import Web, serving

pytestmark = pytest.mark.slow

EVIL = "a</script><img src=x onerror=document.title=1>"
HOSTILE = (EVIL, "right\u202eto left", "two\nlines", "it's & <b>bold</b>", "'\"><script>1</script>")
BAR = "return document.querySelector('progress')?.value ?? 0"
PART_BYTES = 4_500_000  # several of the parts in which an output of 14 MB is written
LIVE_SECONDS = 1.0  # from a line of the log until the page shows it


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> HomeServer:
    """A home server whose log is a file, as the page shows its lines."""
    server = HomeServer(tmp_path_factory.mktemp("server"))
    server.configure(log={"path": str(server.top / "lensd.log")})
    return server


@pytest.fixture(scope="module")
def daemon(server: HomeServer) -> Iterator[Log]:
    """The daemon, with some compressed files and a failed one."""
    with server.daemon() as running:
        log = Log(running, server.top / "lensd.log")
        log.wait_for("daemon.ready")
        for number in range(3):
            server.drop(f"style/ink_{number}.safetensors", seed=number, effective_rank=2.0)
        bad = server.make("bad.safetensors", seed=4).path
        bad.write_bytes(bad.read_bytes()[:-2] + b"\xff\x7f")
        server.move_in(bad)
        for _ in range(3):
            log.wait_for("file.compressed")
        yield log


class Log:
    """The lines of the daemon's log file, as they come."""

    def __init__(self, running: RunningDaemon, path: Path) -> None:
        self.running = running
        self._path = path
        self._read = 0

    def wait_for(self, event: str, name: str = "") -> Line:
        """The next line of an event about a path with this name in it."""
        found: list[Line] = []

        def look() -> bool:
            text = self._path.read_text() if self._path.exists() else ""
            for line in map(parse_line, whole_lines(text)[self._read :]):
                self._read += 1
                if line["event"] == event and name in line.get("path", ""):
                    found.append(line)
                    return True
            return False

        wait_until(look, f"{event} {name}")
        return found[0]

    def last(self, event: str) -> Line:
        """The last line of an event in the log."""
        lines = map(parse_line, self._path.read_text().splitlines())
        return [line for line in lines if line["event"] == event][-1]


@pytest.fixture(scope="module")
def web(server: HomeServer, daemon: Log) -> Iterator[Web]:
    del daemon  # which runs
    with serving(server.config) as found:
        yield found


@pytest.fixture
def opened(browser: Browser, web: Web) -> Iterator[Browser]:
    """The browser with the first page; at the end it has no error, and asked no other server."""
    browser.prefer("light")
    browser.resize(1280, 1000)
    browser.asked_for()
    browser.console()
    visit(browser, web, "/")
    yield browser
    assert browser.console() == []
    assert {url.split("/")[2] for url in browser.asked_for() if "://" in url} <= {web.host}
    browser.driver.get("about:blank")


def visit(browser: Browser, web: Web, path: str) -> None:
    browser.driver.get(web.address + path)


def texts(browser: Browser, selector: str) -> list[str]:
    """The texts of all elements, read at one moment."""
    script = "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent.trim())"
    return browser.js(script, selector)


def names(browser: Browser) -> list[str]:
    return texts(browser, "#rows th a")


def is_shown(browser: Browser, name: str) -> bool:
    return name in names(browser)


def open_file(browser: Browser, web: Web, name: str) -> None:
    """The page of a file, by a click on its name."""
    visit(browser, web, "/")
    browser.driver.find_element(By.XPATH, f"//tbody//a[.='{name}']").click()
    browser.wait_for(lambda: browser.js("return 'ready' in document.documentElement.dataset"))


def confirm(browser: Browser, button: str, *, by_keyboard: bool) -> str:
    """Press a button and answer its question; returns what the page then says."""
    element = browser.driver.find_element(By.ID, button)
    if by_keyboard:
        browser.js("arguments[0].focus()", element)
        press(browser, Keys.ENTER)
    else:
        element.click()
    assert browser.js("return document.activeElement.id") == "confirm"
    if by_keyboard:
        press(browser, Keys.SPACE)
    else:
        browser.driver.find_element(By.ID, "confirm").click()
    browser.wait_for(lambda: texts(browser, "#cancel") == ["Close"])
    [said] = texts(browser, "#question-answer")
    press(browser, Keys.ENTER)  # the focus is on `Close`
    return said


def press(browser: Browser, *keys: str) -> None:
    ActionChains(browser.driver).send_keys(*keys).perform()


def test_a_new_file_appears_within_a_second(
    opened: Browser, server: HomeServer, daemon: Log
) -> None:
    """From the line of the log on, without a reload; the best of three, on a busy machine."""
    delays = []
    for number in range(3):
        name = f"live_{number}.safetensors"
        server.drop(name, seed=20 + number)
        line = daemon.wait_for("file.compressed", name)
        opened.wait_for(partial(is_shown, opened, name))
        logged = dt.datetime.fromisoformat(line["timestamp"]).timestamp()
        delays.append(time.time() - logged)
    assert min(delays) < LIVE_SECONDS


def test_the_running_file_has_a_bar(opened: Browser, server: HomeServer, daemon: Log) -> None:
    """With the modules that are done, and the next file in the queue below it."""
    names_of_files = ["big_1.safetensors", "big_2.safetensors"]
    assert server.lensd("pause").returncode == 0  # until both are in the queue
    for seed, name in enumerate(names_of_files):
        made = server.elsewhere / name
        write_lora(made, rank=32, seed=seed)
        server.move_in(made)
        daemon.wait_for("file.settled", name)
    assert server.lensd("resume").returncode == 0
    worker = daemon.last("worker.started")["pid"]
    with held_when(worker, lambda: any(map(has_part, server.temporaries())), "a part is written"):
        opened.wait_for(lambda: 0.0 < opened.js(BAR) < 1.0)
        opened.wait_for(lambda: len(texts(opened, ".queue li")) == 1)
        [running], [queued] = texts(opened, ".running"), texts(opened, ".queue li")
        for name in names_of_files:
            assert (f"loras/{name}" in running) != (f"loras/{name}" in queued)
    for name in names_of_files:
        opened.wait_for(partial(is_shown, opened, name))
    opened.wait_for(lambda: texts(opened, ".running") == [])


def has_part(temporary: Path) -> bool:
    try:
        return temporary.stat().st_size > PART_BYTES
    except FileNotFoundError:
        return False


def test_what_waits_says_why(opened: Browser, server: HomeServer) -> None:
    """A file that is not complete is listed with the reason, and leaves the list."""
    partner = server.loras / "half.safetensors.part"
    partner.write_bytes(b"")
    (server.loras / "half.safetensors").write_bytes(b"\0" * 100)
    lists = ".queue"
    opened.wait_for(lambda: any("loras/half.safetensors" in t for t in texts(opened, lists)))
    opened.wait_for(lambda: any("half.safetensors.part" in t for t in texts(opened, lists)))
    partner.unlink()
    (server.loras / "half.safetensors").unlink()
    opened.wait_for(lambda: not any("half.safetensors" in t for t in texts(opened, lists)))


@pytest.mark.parametrize("by_keyboard", [False, True], ids=["click", "keyboard"])
def test_pause_and_resume(opened: Browser, server: HomeServer, *, by_keyboard: bool) -> None:
    """The page shows the pause, and the daemon has it."""
    said = confirm(opened, "pause", by_keyboard=by_keyboard)
    assert "paused: everything" in said
    assert server.status()["paused"] == ["everything"]
    opened.wait_for(lambda: "Paused." in texts(opened, ".state")[0])
    opened.wait_for(lambda: opened.driver.find_elements(By.ID, "resume"))
    assert "resumed" in confirm(opened, "resume", by_keyboard=by_keyboard)
    opened.wait_for(lambda: "Watching." in texts(opened, ".state")[0])
    assert server.status()["paused"] == []


@pytest.mark.parametrize("by_keyboard", [False, True], ids=["click", "keyboard"])
def test_restore_and_compress_again(
    opened: Browser, web: Web, server: HomeServer, daemon: Log, *, by_keyboard: bool
) -> None:
    """The original is back, bit for bit; then the file is compressed again."""
    name = f"undo_{by_keyboard}.safetensors"
    original = server.make(name, seed=40 + by_keyboard).path
    before = Seen.of(original)
    target = server.move_in(original)
    daemon.wait_for("file.compressed", name)
    opened.wait_for(lambda: name in names(opened))
    open_file(opened, web, name)
    assert confirm(opened, "restore", by_keyboard=by_keyboard) == "The original is back."
    assert Seen.of(target).sha256 == before.sha256
    opened.wait_for(lambda: "restored" in " ".join(texts(opened, "#facts")))
    opened.wait_for(lambda: opened.driver.find_elements(By.ID, "redo"))
    said = confirm(opened, "redo", by_keyboard=by_keyboard)
    assert "lensd takes 1 file" in said
    daemon.wait_for("file.compressed", name)
    assert Seen.of(target).sha256 != before.sha256
    opened.wait_for(lambda: "compressed" in " ".join(texts(opened, "#facts")))


@pytest.mark.parametrize("by_keyboard", [False, True], ids=["click", "keyboard"])
def test_try_again(opened: Browser, web: Web, daemon: Log, *, by_keyboard: bool) -> None:
    """A failed file is tried again: from its page, and all of them from the first page."""
    assert "loras/bad.safetensors" in texts(opened, ".attention li")[0]
    if by_keyboard:
        said = confirm(opened, "retry", by_keyboard=True)
    else:
        open_file(opened, web, "bad.safetensors")
        said = confirm(opened, "retry", by_keyboard=False)
    assert "1 file will be tried again" in said
    daemon.wait_for("file.failed", "bad")


def test_cancel_changes_nothing(opened: Browser, server: HomeServer) -> None:
    """Escape and the button close the question; the focus is where it was."""
    for key in (Keys.ESCAPE, None):
        opened.driver.find_element(By.ID, "pause").click()
        if key:
            press(opened, key)
        else:
            opened.driver.find_element(By.ID, "cancel").click()
        assert opened.js("return document.activeElement.id") == "pause"
    assert server.status()["paused"] == []


def test_the_page_of_a_file(opened: Browser, web: Web, daemon: Log, server: HomeServer) -> None:
    """It has the numbers and charts of the report, and the lines of the log without paths."""
    open_file(opened, web, "ink_1.safetensors")
    assert opened.js("return document.querySelectorAll('#one canvas').length") == 2
    facts = " ".join(texts(opened, "#facts"))
    lines = daemon.running.lines  # those on stdout: none, since the log is a file
    assert lines == []
    [log] = texts(opened, ".log")
    for part in ('"file.settled"', '"file.compressed"', "loras/style/ink_1.safetensors"):
        assert part in log
    assert str(server.top) not in opened.driver.page_source
    sha256 = next(p for p in log.split('"') if len(p) == 64)
    assert sha256 in facts


def test_hostile_names_are_text(opened: Browser, web: Web, server: HomeServer, daemon: Log) -> None:
    """They are shown with escapes, on the first page and on their own, and do nothing."""
    for number, name in enumerate(HOSTILE):
        path = f"{name}.safetensors"
        made = server.make(f"hostile_{number}.safetensors", seed=60 + number).path
        server.move_in(made, path)
        daemon.wait_for("file.compressed")
    shown = {visible(f"{name}.safetensors").rpartition("/")[2] for name in HOSTILE}
    opened.wait_for(lambda: shown <= set(names(opened)))
    for link in opened.js("return [...document.querySelectorAll('#rows a')].map((a) => a.href)"):
        opened.driver.get(link)
        opened.wait_for(lambda: opened.js("return 'ready' in document.documentElement.dataset"))
        assert opened.js("return document.querySelectorAll('img, b, main script').length") == 0
        assert opened.driver.title != "1"
        assert not {"\u202e", "\u2028"} & set(opened.driver.page_source)
    visit(opened, web, "/?search=bold")
    assert names(opened) == ["it's & <b>bold</b>.safetensors".rpartition("/")[2]]


def test_search_by_typing(opened: Browser, web: Web) -> None:
    """The table follows the keys, the focus stays, and the address can be opened again."""
    opened.driver.find_element(By.ID, "search").click()
    press(opened, "ink_2")
    opened.wait_for(lambda: names(opened) == ["ink_2.safetensors"])
    assert opened.js("return document.activeElement.id") == "search"
    assert opened.js("return location.search") == "?search=ink_2&sort=when&down=1"
    opened.driver.refresh()
    assert names(opened) == ["ink_2.safetensors"]
    visit(opened, web, "/")
    Select(opened.driver.find_element(By.ID, "outcome")).select_by_value("failed")
    opened.wait_for(lambda: names(opened) == ["bad.safetensors"])
    visit(opened, web, "/?folder=loras%2Fstyle")
    assert set(names(opened)) == {f"ink_{n}.safetensors" for n in range(3)}
    opened.driver.find_element(By.ID, "sort-name").click()
    opened.wait_for(lambda: names(opened) == sorted(names(opened)))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone(opened: Browser, web: Web, scheme: str) -> None:
    """Nothing scrolls sideways at 390 pixels; contrast is 4.5 to 1 or more; controls have names."""
    opened.prefer(scheme)
    opened.resize(390, 800)
    for path in ("/", "/?search=ink_1"):
        visit(opened, web, path)
        opened.wait_for(lambda: opened.driver.find_elements(By.CSS_SELECTOR, "#savings canvas"))
        assert opened.js("return document.documentElement.scrollWidth") == 390
        colours = opened.js(COLOURS)
        assert not [c for c in colours if contrast(c[1], c[2]) < 4.5]
        nameless = [r for r, name in opened.accessible() if r in NEEDS_A_NAME[:-2] and not name]
        assert not nameless
    opened.driver.find_element(By.CSS_SELECTOR, "#rows a").click()
    opened.wait_for(lambda: opened.js("return 'ready' in document.documentElement.dataset"))
    assert opened.js("return document.documentElement.scrollWidth") == 390


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_daemon_that_ended(browser: Browser, tmp_path: Path, how: str) -> None:
    """The page shows it without a reload, and that the daemon is back."""
    server = HomeServer(tmp_path)
    with server.daemon() as running:
        running.wait_for(lambda line: line["event"] == "daemon.ready", "ready")
        with serving(server.config) as web:
            visit(browser, web, "/")
            browser.wait_for(lambda: "Watching." in texts(browser, ".state")[0])
            getattr(running, how)()
            browser.wait_for(lambda: "The daemon is not running." in texts(browser, ".state")[0])
            with server.daemon():
                browser.wait_for(lambda: "Watching." in texts(browser, ".state")[0])
            browser.driver.get("about:blank")


def test_the_token_in_a_browser(browser: Browser, server: HomeServer, daemon: Log) -> None:
    """The page asks for it once; signing out asks again."""
    del daemon
    token = server.top / "token"
    token.write_text("correct horse battery")
    token.chmod(0o600)
    with serving(server.config, "--token-file", str(token)) as web:
        visit(browser, web, "/")
        browser.wait_for(lambda: browser.js("return document.activeElement.name") == "token")
        press(browser, "correct horse battery", Keys.ENTER)
        browser.wait_for(lambda: browser.driver.find_elements(By.ID, "table"))
        visit(browser, web, "/")
        assert names(browser)
        browser.driver.find_element(By.XPATH, "//button[.='Sign out']").click()
        browser.wait_for(lambda: browser.js("return location.pathname") == "/login")
        visit(browser, web, "/")
        assert browser.js("return location.pathname") == "/login"
        assert browser.console() == []
        browser.driver.get("about:blank")


def test_many_tabs(opened: Browser, web: Web, server: HomeServer, daemon: Log) -> None:
    """A browser has six connections to a server: tabs in the background must not keep them."""
    first = opened.driver.current_window_handle
    for _ in range(8):
        opened.driver.switch_to.new_window("tab")
        visit(opened, web, "/")
        opened.wait_for(lambda: names(opened))
    server.drop("tabs.safetensors", seed=40)
    daemon.wait_for("file.compressed", "tabs.safetensors")
    opened.wait_for(partial(is_shown, opened, "tabs.safetensors"))
    for handle in opened.driver.window_handles:
        if handle != first:
            opened.driver.switch_to.window(handle)
            opened.driver.close()
    opened.driver.switch_to.window(first)
    opened.wait_for(partial(is_shown, opened, "tabs.safetensors"))


def test_a_proxy_that_answers_instead(browser: Browser, server: HomeServer, daemon: Log) -> None:
    """While `lensd web` starts again; the page then goes on by itself."""
    del daemon
    asked = threading.Event()

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(502)
            asked.set()

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    lost = "return document.getElementById('lost').hidden"
    with serving(server.config) as web:
        visit(browser, web, "/")
        browser.wait_for(lambda: names(browser))
    host, port = web.host.split(":")
    with ThreadingHTTPServer((host, int(port)), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever).start()
        assert asked.wait(PATIENCE)
        browser.wait_for(lambda: not browser.js(lost))
        proxy.shutdown()
    with serving(server.config, "--listen", web.host):
        browser.wait_for(lambda: browser.js(lost))
        browser.driver.get("about:blank")
    browser.console()
