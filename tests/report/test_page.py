"""The HTML page in a real browser: it shows the report and makes no network request."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import sqlite3
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from lensd import __version__
from lensd.store.ledger import Ledger, Outcome
from lensd.store.ledger.entry import Entry
from lensd.text import size, visible
from tests.cli.conftest import run
from tests.report.conftest import BAD, EVIL, SEPARATED
from tests.support import many_files
from tests.support.browser import Browser
from tests.support.home_server import HomeServer
from tests.support.running import parse_line

VENDOR = Path(__file__).parents[2] / "lensd/report/page/vendor"
NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"
NONE, TIMES = "\N{EN DASH}", "\N{MULTIPLICATION SIGN}"
NEEDS_A_NAME = ("button", "textbox", "searchbox", "combobox", "link", "region", "table", "image")

# Every text with its colour and its background, as the browser computed them.
COLOURS = """
const found = [];
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (texts.nextNode()) {
  const text = texts.currentNode.textContent.trim(), at = texts.currentNode.parentElement;
  if (!text || at.closest("script, style, noscript, canvas, :disabled") || !at.checkVisibility())
    continue;
  let under = at;
  while (getComputedStyle(under).backgroundColor === "rgba(0, 0, 0, 0)" && under.parentElement)
    under = under.parentElement;
  found.push([text, getComputedStyle(at).color, getComputedStyle(under).backgroundColor]);
}
const search = document.getElementById("search");
found.push(["placeholder", getComputedStyle(search, "::placeholder").color,
            getComputedStyle(search).backgroundColor]);
return found;
"""


def compressed(server: HomeServer) -> dict[str, Entry]:
    """The compressed files, by the name that the page shows."""
    ledger = Ledger(str(server.state), __version__, readonly=True)
    try:
        entries = list(ledger.files.with_outcome(Outcome.COMPRESSED))
    finally:
        ledger.close()
    return {visible(entry.path.rpartition("/")[2]): entry for entry in entries}


@pytest.fixture
def opened(browser: Browser, page: Path) -> Browser:
    """The browser with the page, in light mode."""
    browser.prefer("light")
    browser.open(page)
    return browser


def rows(browser: Browser) -> list[list[str]]:
    """The table of files as shown; the name is the first line of the first cell."""
    script = """return [...document.querySelectorAll("#rows > tr:not(.detail)")].map(
        (row) => [...row.children].map((cell, at) => (at ? cell : cell.firstChild).textContent))"""
    return browser.js(script)


def numbers(browser: Browser, which: str) -> list[list[str]]:
    """The table below a chart."""
    script = """return [...document.querySelectorAll(`#${arguments[0]}-numbers tbody tr`)].map(
        (row) => [...row.children].map((cell) => cell.textContent))"""
    return browser.js(script, which)


def press(browser: Browser, *keys: str) -> None:
    ActionChains(browser.driver).send_keys(*keys).perform()


def choose(browser: Browser, name: str) -> None:
    """Click the name of a file in the table."""
    browser.driver.find_element(By.XPATH, f"//button[.='{name}']").click()


def test_totals_and_files_are_those_of_the_ledger(opened: Browser, server: HomeServer) -> None:
    """Each file has its sizes, error and outcome; the totals equal those of `lensd status`."""
    totals = server.status()["totals"]
    shown = opened.js("return [...document.querySelectorAll('.totals dd')].map((d) => d.innerText)")
    saved, held, net = (size(totals[key]) for key in ("saved_in_folders", "held_by_archive", "net"))
    assert [text.replace(NO_BREAK_SPACE, " ") for text in [shown[0], *shown[2:6]]] == [
        "3 files",
        saved,
        held,
        f"{net.removeprefix('-')} more",
        f"in use than before: the originals take {held}, and the folders save {saved}.",
    ]
    table = {row[0]: row for row in rows(opened)}
    entries = compressed(server)
    assert set(table) == {*entries, "page.safetensors", BAD}
    for name, entry in entries.items():
        assert entry.line is not None
        before, after, ratio, error = table[name][3:7]
        assert (size(entry.bytes_in or 0), size(entry.bytes_out or 0)) == (before, after)
        assert f"{entry.line['ratio']:.1f}{TIMES}" == ratio
        assert f"{100 * entry.line['delta_error']:.2f} %" == error
    assert table[BAD][-1] == "not_finite"


def test_the_failure_has_its_remedy(opened: Browser) -> None:
    """The first section names the file as below its watched folder, with the message of the log."""
    [failure] = opened.driver.find_elements(By.CSS_SELECTOR, "main > :first-child .failures li")
    assert f"loras/{BAD}" in failure.text
    assert opened.driver.find_element(By.ID, "attention-title").text == "1 file needs attention"
    assert "download or train it again" in failure.text


def test_a_chosen_file_shows_its_ranks_and_spectrum(opened: Browser, server: HomeServer) -> None:
    """Both charts are drawn directly below the row, with the numbers of the log line.

    A second click closes them.
    """
    line = compressed(server)["good.safetensors"].line
    assert line is not None
    choose(opened, "good.safetensors")
    assert opened.js("return document.activeElement.textContent") == "good.safetensors"
    below = "return document.querySelector('tr[aria-current] + tr').contains(byId('chosen'))"
    assert opened.js(below)
    blocks = [[part, *row] for part, found in line["blocks"].items() for row in found]
    names = [part if at is None else f"{part}.{at}" for part, at, *_ in blocks]
    expected = [[n, *map(str, row[2:])] for n, row in zip(names, blocks, strict=True)]
    assert numbers(opened, "ranks") == expected
    energies = [f"{100 * e:.3f} %" for e in line["spectrum"]["energy"]]
    ranks = [str(rank) for rank in line["spectrum"]["ranks"]]
    assert [list(pair) for pair in zip(ranks, energies, strict=True)] == numbers(opened, "spectrum")
    facts = opened.driver.find_element(By.ID, "facts").text
    assert line["sha256_in"] in facts
    assert line["sha256_out"] in facts
    canvases = opened.js("return document.querySelectorAll('#chosen canvas').length")
    assert canvases == 2
    visible_now = "return byId('ranks').getBoundingClientRect().bottom <= innerHeight"
    assert opened.js(visible_now)
    choose(opened, "good.safetensors")
    assert not opened.driver.find_elements(By.ID, "chosen")


def test_a_file_that_was_not_compressed(opened: Browser) -> None:
    """The page shows its reason and message, and no charts."""
    choose(opened, "page.safetensors")
    chosen = opened.driver.find_element(By.ID, "chosen").text
    assert "not_safetensors" in chosen
    assert "the file was not compressed" in chosen
    assert opened.js("return document.querySelectorAll('#chosen canvas').length") == 0


def test_a_ledger_of_an_older_lensd(browser: Browser, server: HomeServer, tmp_path: Path) -> None:
    """Its lines have no blocks and no spectrum: the page says so and shows everything else."""
    older = HomeServer(tmp_path)
    shutil.copytree(server.state, older.state)
    with contextlib.closing(sqlite3.connect(older.state / "ledger.sqlite3")) as db, db:
        db.execute("UPDATE files SET line = json_remove(line, '$.blocks', '$.spectrum')")
    done = older.lensd("report", "--html", tmp_path / "older.html")
    assert done.returncode == 0, done.stderr
    browser.open(tmp_path / "older.html")
    choose(browser, "good.safetensors")
    chosen = browser.driver.find_element(By.ID, "chosen").text
    assert chosen.count("an older lensd compressed it") == 2
    assert (compressed(server)["good.safetensors"].sha256_out or "?") in chosen
    assert browser.console() == []


@pytest.mark.parametrize("column", ["Before", "Error", "File"])
def test_sorting(opened: Browser, column: str) -> None:
    """A click on a heading sorts, in both directions; files without a value come last."""
    at = opened.js("return [...document.querySelectorAll('#heads th')].map((h) => h.innerText)")
    number = next(n for n, head in enumerate(at) if head.startswith(column))
    button = opened.driver.find_elements(By.CSS_SELECTOR, "#heads button")[number]
    orders = {}
    for _ in range(2):
        button.click()
        way = button.find_element(By.XPATH, "..").get_attribute("aria-sort")
        orders[way] = [row[number] for row in rows(opened)]
    assert set(orders) == {"ascending", "descending"}
    known = [cell for cell in orders["ascending"] if cell != NONE]
    assert [cell for cell in orders["descending"] if cell != NONE] == known[::-1]
    for order in orders.values():
        assert order[: len(known)] == [cell for cell in order if cell != NONE]
    if column != "File":
        assert sorted(known, key=lambda cell: float(cell.split()[0])) == known


def test_search_and_filter(opened: Browser, server: HomeServer) -> None:
    """By name, reason, start of a sha256, folder, outcome. The page shows the number of files."""
    search = opened.driver.find_element(By.ID, "search")
    sha256 = compressed(server)["good.safetensors"].sha256_out or ""
    good = "good.safetensors"
    for text, name in ((sha256[:12], good), ("NOT_FINITE", BAD), ("ood safet", good)):
        search.clear()
        search.send_keys(text)
        assert [name] == [row[0] for row in rows(opened)]
        assert opened.driver.find_element(By.ID, "shown").text == "1 of 5 files"
    search.clear()
    search.send_keys("nosuchfile")
    assert rows(opened) == []
    search.send_keys(Keys.BACKSPACE * 10)
    Select(opened.driver.find_element(By.ID, "outcome")).select_by_value("skipped")
    assert [row[0] for row in rows(opened)] == ["page.safetensors"]
    Select(opened.driver.find_element(By.ID, "outcome")).select_by_value("")
    folders = Select(opened.driver.find_element(By.ID, "folder"))
    below = [o.get_attribute("value") for o in folders.options][2]
    assert below is not None
    assert below.startswith("loras/sub")
    folders.select_by_value(below)
    assert len(rows(opened)) == 1


def test_names_are_never_markup_or_script(opened: Browser, page: Path) -> None:
    """Names that contain script tags, direction marks or line breaks are shown and do nothing."""
    shown = {row[0] for row in rows(opened)}
    assert {BAD, f"{EVIL.rpartition('/')[2]}.safetensors"} <= shown
    assert BAD in opened.driver.find_element(By.CSS_SELECTOR, ".failures").text
    assert f"{visible(SEPARATED)}.safetensors" in shown
    opened.driver.find_element(By.XPATH, "//button[contains(., 'script>')]").click()
    assert opened.js("return document.querySelectorAll('img, b').length") == 0
    assert opened.driver.title.startswith("lensd report")
    text = page.read_text(encoding="utf-8")
    assert EVIL not in text
    assert not {"\u2028", "\u202e", "\x1b"} & set(text)
    assert text.count("<script") == text.count("</script>") == 3


def test_names_of_logs_are_never_markup(
    browser: Browser, server: HomeServer, tmp_path: Path
) -> None:
    """The page shows them as text."""
    name = "a<b>&amp;.log"
    shutil.copy(server.top / "lensd.log", tmp_path / name)
    done = run(tmp_path, "report", "--log", name, "--html", "page.html")
    assert done.returncode == 0, done.stderr
    browser.open(tmp_path / "page.html")
    assert f"lines of {name}, which" in browser.driver.find_element(By.TAG_NAME, "header").text


def test_no_requests_and_no_errors(opened: Browser, page: Path) -> None:
    """The page loads only itself, logs nothing on the console, and its policy allows no more."""
    opened.asked_for()
    opened.console()
    opened.open(page)
    opened.prefer("dark")
    opened.driver.find_element(By.ID, "search").send_keys("g")
    opened.driver.find_element(By.XPATH, "//button[.='good.safetensors']").click()
    opened.resize(400, 800)
    assert opened.asked_for() == [page.as_uri()]
    assert opened.console() == []
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page.read_text())
    assert policy is not None
    assert policy[1].startswith("default-src &#39;none&#39;; script-src &#39;sha256-")
    assert "unsafe" not in policy[1]


def test_the_policy_stops_foreign_script(opened: Browser, page: Path, tmp_path: Path) -> None:
    """The browser does not run a script that was inserted into the page."""
    other = tmp_path / "other.html"
    foreign = "<script>document.title = 'foreign'</script><b onclick='1'>"
    other.write_text(page.read_text(encoding="utf-8").replace("<main>", f"<main>{foreign}"))
    opened.open(other)
    assert opened.driver.title.startswith("lensd report")
    assert any("Content Security Policy" in said for said in opened.console())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(opened: Browser, scheme: str) -> None:
    """Every text has a contrast of at least 4.5 to 1 (WCAG AA), in light and dark mode."""
    opened.prefer(scheme)
    colours = opened.js(COLOURS)
    assert len(colours) > 100
    papers = {under for _, _, under in colours}
    assert all((luminance(paper) > 0.5) == (scheme == "light") for paper in papers)
    low = [(*c, contrast(c[1], c[2])) for c in colours if contrast(c[1], c[2]) < 4.5]
    assert not low


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two CSS colours (WCAG 2.2)."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    channels = [int(c) / 255 for c in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_names_for_screen_readers(opened: Browser) -> None:
    """Controls, regions, headings of tables and charts have names."""
    found = opened.accessible()
    nameless = [role for role, name in found if role in NEEDS_A_NAME[:-2] and not name]
    assert not nameless
    choose(opened, "good.safetensors")
    found = opened.accessible()
    pictures = [name for role, name in found if role in ("image", "img")]
    assert any("Saved so far" in name for name in pictures)
    assert any("Median rank" in name for name in pictures)
    assert "columnheader" in {role for role, _ in found}
    assert "rowheader" in {role for role, _ in found}


def test_by_keyboard_alone(opened: Browser) -> None:
    """From the search field, keys sort by a heading and choose a file; the focus is visible."""
    opened.driver.find_element(By.ID, "search").click()
    press(opened, *[Keys.TAB] * 4)  # the folder, the outcome, the table, its first heading
    assert opened.js("return document.activeElement.textContent") == "File"
    assert opened.js("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    press(opened, Keys.ENTER)
    head = "return document.activeElement.closest('th').getAttribute('aria-sort')"
    assert opened.js(head) == "ascending"
    press(opened, Keys.SPACE)
    assert opened.js(head) == "descending"
    heads = opened.js("return document.querySelectorAll('#heads button').length")
    press(opened, *[Keys.TAB] * heads)
    name = opened.js("return document.activeElement.textContent")
    assert name == rows(opened)[0][0]
    press(opened, Keys.ENTER)
    assert opened.js("return document.activeElement.textContent") == name
    assert opened.js("return document.activeElement.getAttribute('aria-expanded')") == "true"
    current = opened.js("return document.querySelector('tr[aria-current]').innerText")
    assert current.startswith(name)


def test_a_narrow_screen_needs_no_sideways_scrolling(opened: Browser, page: Path) -> None:
    """The page and its charts fit into 400 pixels."""
    opened.open(page, width=400)
    assert opened.js("return document.documentElement.scrollWidth") == 400


# What is drawn on each canvas when the charts are drawn again: texts with their boxes.
LABELS = """
window.labels = new Map();
const found = window.labels, draw = CanvasRenderingContext2D.prototype.fillText;
CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {
  const box = this.measureText(text), at = this.getTransform();
  const shift = { center: box.width / 2, right: box.width, end: box.width }[this.textAlign] ?? 0;
  const left = at.e + x - shift, top = at.f + y - box.actualBoundingBoxAscent;
  const bottom = at.f + y + box.actualBoundingBoxDescent;
  const label = [text, left, top, left + box.width, bottom];
  if (text) found.set(this, [...(found.get(this) ?? []), label]);
  return draw.call(this, text, x, y);
};
const clear = CanvasRenderingContext2D.prototype.clearRect;
CanvasRenderingContext2D.prototype.clearRect = function (...box) { // uPlot draws all again
  found.delete(this);
  return clear.apply(this, box);
};
redrawAll(); // uPlot draws after this script
"""
Box = tuple[str, float, float, float, float]


MARGIN = 4.0  # pixels between two labels, so that they are read as two


def overlap(one: Box, other: Box) -> bool:
    (_, left, top, right, bottom), (_, *box) = one, other
    across = left < box[2] + MARGIN and box[0] < right + MARGIN
    return across and top < box[3] + MARGIN and box[1] < bottom + MARGIN


@pytest.fixture(scope="session")
def months(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with some months of files of all base models."""
    folder = tmp_path_factory.mktemp("months")
    many_files.write_log(folder / "log", 120, seed=3, troubles=0.2)
    done = run(folder, "report", "--log", "log", "--html", "months.html")
    assert done.returncode == 0, done.stderr
    return folder / "months.html"


@pytest.mark.parametrize("width", [390, 1280])
def test_labels_of_axes_do_not_collide(browser: Browser, months: Path, width: int) -> None:
    """In no chart does a label touch another one."""
    browser.open(months, width=width)
    browser.js("document.querySelector('#rows > tr:not(:has(td.outcome:empty)) button').click()")
    browser.js(LABELS)
    charts = browser.js("return [...window.labels.values()]")
    assert len(charts) >= 2
    for labels in charts:
        assert len(labels) > 4
        collisions = [(a[0], b[0]) for a, b in combinations(labels, 2) if overlap(a, b)]
        assert not collisions


def test_a_phone_shows_two_lines_for_each_file(browser: Browser, months: Path) -> None:
    """Its name is on one line, and folder, size and ratio are on the other; no word is broken."""
    browser.open(months, width=390)
    script = """return [...document.querySelectorAll("#rows > tr")].map((row) => {
        const texts = [...row.querySelectorAll("button, span, td")];
        const shown = texts.filter((e) => e.checkVisibility());
        const boxes = shown.map((e) => e.getBoundingClientRect());
        const top = Math.min(...boxes.map((b) => b.top));
        const bottom = Math.max(...boxes.map((b) => b.bottom));
        const line = parseFloat(getComputedStyle(row.querySelector("button")).lineHeight);
        return [boxes.length, bottom - top, line]; })"""
    for texts, height, line in browser.js(script):
        assert texts == 4
        assert height < 2.2 * line
    assert browser.js("return document.documentElement.scrollWidth") == 390


def test_savings_are_steps(browser: Browser, tmp_path: Path) -> None:
    """Between two days with files the line stays at the height of the first one."""
    many_files.write_log(tmp_path / "log", 10, seed=3, troubles=0.0)
    done = run(tmp_path, "report", "--log", "log", "--html", "few.html")
    assert done.returncode == 0, done.stderr
    browser.prefer("light")
    browser.open(tmp_path / "few.html")
    script = """const plot = drawn.get("savings"), [days, totals] = plot.data;
        const rise = (n) => (days[n + 1] - days[n] > 3 * DAY ? totals[n + 1] - totals[n] : 0);
        const at = days.reduce((best, _, n) => (rise(n) > rise(best) ? n : best), 1);
        const seen = (total) => {
            const x = Math.round(plot.valToPos((days[at] + days[at + 1]) / 2, "x", true));
            const y = Math.round(plot.valToPos(total, "y", true));
            const { data } = plot.ctx.getImageData(x, y - 1, 1, 3);
            return [0, 4, 8].some((n) => data[n] === 0x0b && data[n + 1] === 0x6b);
        };
        return [seen(totals[at]), seen((totals[at] + totals[at + 1]) / 2)]"""
    assert browser.js(script) == [True, False]


def test_no_empty_read_outs(browser: Browser, months: Path) -> None:
    """A legend names the colours; values are there while the pointer is on the chart."""
    browser.open(months)
    legend = browser.driver.find_element(By.CSS_SELECTOR, "#savings .u-legend")
    assert legend.text.strip() == "Saved so far"
    canvas = browser.driver.find_element(By.CSS_SELECTOR, "#savings .u-over")
    ActionChains(browser.driver).move_to_element(canvas).perform()
    assert re.search(r"Saved so far:?\s*[\d.]+ [kMG]B", legend.text)
    ActionChains(browser.driver).move_to_element(
        browser.driver.find_element(By.TAG_NAME, "h1")
    ).perform()
    assert legend.text.strip() == "Saved so far"


def test_only_large_ratios_are_coloured(browser: Browser, months: Path) -> None:
    """From 3 times on."""
    browser.open(months)
    script = """return [...document.querySelectorAll("td.ratio, .bars td.n")].map((cell) =>
        [cell.textContent, cell.classList.contains("much")])"""
    cells = [(text, much) for text, much in browser.js(script) if text.endswith(TIMES)]
    assert {much for _, much in cells} == {True, False}
    assert [text for text, much in cells if much != (float(text[:-1]) >= 2.95)] == []


def test_the_free_space_of_the_disks(opened: Browser, server: HomeServer) -> None:
    """Each disk has its free space; the folder and the archive of the tests are on one."""
    text = opened.driver.find_element(By.CLASS_NAME, "totals").text.replace(NO_BREAK_SPACE, " ")
    found = re.search(r"Free for loras, archive\n(\S+ .B)\nof (\S+ .B)", text)
    assert found is not None
    assert found[2] == size(shutil.disk_usage(server.loras).total)


def test_sentences_are_separated(opened: Browser) -> None:
    """There is a space or a new line between two sentences."""
    text = opened.driver.find_element(By.TAG_NAME, "main").text
    assert re.findall(r"[a-z]\.[A-Z][a-z]", text) == []


def test_printing_uses_black_on_white(opened: Browser) -> None:
    """In dark mode, charts are drawn in light colours for printing, and then as before."""
    opened.prefer("dark")
    ink = "return [getComputedStyle(document.body).color, document.querySelector('canvas').width]"
    before = opened.js(ink)
    opened.js("dispatchEvent(new Event('beforeprint'))")
    printed = opened.js(ink)
    assert printed[0] == "rgb(0, 0, 0)"
    opened.js("dispatchEvent(new Event('afterprint'))")
    assert opened.js(ink) == before
    assert len(opened.driver.print_page()) > 10_000


def test_the_library_is_the_one_that_was_published() -> None:
    """The files of uPlot match SHA256SUMS, and its licence is there."""
    sums = [line.split() for line in (VENDOR / "SHA256SUMS").read_text().splitlines()]
    assert {name for _, name in sums} == {"uPlot.iife.min.js", "uPlot.min.css"}
    for digest, name in sums:
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest
    assert "MIT" in (VENDOR / "uPlot.LICENSE").read_text()


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with 5,000 files."""
    folder = tmp_path_factory.mktemp("large")
    many_files.write_log(folder / "log", 5000)
    done = run(folder, "report", "--log", "log", "--html", "large.html")
    assert done.returncode == 0, done.stderr
    return folder / "large.html"


@pytest.mark.slow
def test_5000_files(browser: Browser, large: Path, tell: Any) -> None:
    """The page is smaller than 3 MB. Times are printed here and measured by bench.report."""
    megabytes = large.stat().st_size / 1e6
    assert megabytes < 3
    seconds = browser.open(large)
    began = "const began = performance.now();"
    sort = "document.querySelector('#heads button').click(); return performance.now() - began"
    sorting = browser.js(began + sort)
    tell(
        f"5,000 files: {megabytes:.1f} MB, usable after {seconds:.2f} s, sorted in {sorting:.0f} ms"
    )
    browser.driver.find_element(By.ID, "next").click()
    assert browser.driver.find_element(By.ID, "page").text == "Page 2 of 200"


def test_generated_log_lines_are_valid() -> None:
    """The large page and the documentation's pictures of the report are made from them."""
    events = {parse_line(json.dumps(line))["event"] for line in many_files.lines(60, troubles=0.3)}
    assert events >= {"file.compressed", "file.failed", "file.skipped"}
