"""The output at a real terminal, and the output in a pipe."""

from __future__ import annotations

import itertools
import json
import re
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import pyte
import pytest
from rich.progress import TimeRemainingColumn

from lensd.cli.views.progress import Bar
from lensd.store.identity import Identity
from lensd.store.ledger import Ledger
from tests.support.home_server import HomeServer
from tests.support.realistic import small_lora
from tests.support.terminal import LINES, AtTerminal

EVIL = "evil\x1b[2J\x1b[31mred\nforged.safetensors"
SHOWN = r"evil\x1b[2J\x1b[31mred\nforged.safetensors"
LONG = "a name as long as people give them, " * 5 + "v2.safetensors"
BAR = ("━", "╸", "╺")
QUEUED = 3000
WIDE = 1000  # columns; no line is wrapped, so that tests can search for complete lines


def lensd(
    server: HomeServer,
    verb: str,
    *arguments: str,
    columns: int = 80,
    env: Mapping[str, str] = {},
    wrap: bool = True,
) -> AtTerminal:
    """`wrap`: as a terminal does; else the screen shows lines that are too long."""
    screen = None if wrap else pyte.Screen(WIDE, LINES)
    command = [sys.executable, "-m", "lensd", verb, "-c", str(server.config), *arguments]
    return AtTerminal(command, server.top, columns=columns, env=env, screen=screen)


class Batch:
    """`lensd once` at a terminal over a good, a long-named, an evil-named and a faulty file."""

    def __init__(self, server: HomeServer) -> None:
        self.server = server
        for seed, name in enumerate(("good.safetensors", LONG, EVIL, "bad.safetensors")):
            server.drop(name, seed=seed)
        bad = server.loras / "bad.safetensors"
        bad.write_bytes(bad.read_bytes()[:-2] + b"\xff\x7f")  # a float16 NaN
        with lensd(server, "once", columns=WIDE) as terminal:
            terminal.wait_for("^Go on\\?")
            terminal.type("y\n")
            self.code = terminal.wait()
        self.terminal = terminal


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Batch:
    return Batch(HomeServer(tmp_path_factory.mktemp("server")))


def test_once_shows_each_file_and_a_summary(batch: Batch) -> None:
    """The plan and a question, a progress bar, one complete line per file, a summary, no JSON."""
    assert batch.code == 1
    text, raw = batch.terminal.text, batch.terminal.raw.decode()
    assert re.search(r"^loras +ultra +[34] ", text, re.MULTILINE), text
    done = r"^compressed  {}: \S+ kB -> \S+ kB, \S+ times smaller, delta error 0\.\d+$"
    for name in ("good.safetensors", LONG, SHOWN):
        line = done.format(re.escape(f"loras/{name}"))
        assert re.search(line, text, re.MULTILINE), text
    assert re.search(r"^failed      loras/bad\.safetensors: .* NaN", text, re.MULTILINE), text
    assert "lensd: 3 compressed, 1 failed\n" in text
    assert any(sign in raw for sign in BAR)
    assert not any(sign in text for sign in BAR)
    assert "{" not in text


def test_the_bar_names_all_running_files() -> None:
    """Their shares add up; a file that ends without an outcome does not count."""
    bar = Bar({"/a/one": 100, "/a/two": 300, "/a/three": 100})
    for path in ("/a/one", "/a/two"):
        bar.begin(path)
        bar.step(path, "verify", 0, 1)
    [task] = bar._bar.tasks
    assert (task.fields["name"], task.fields["stage"]) == ("1/3 one, two", "verify 0/1 +1")
    assert task.completed == pytest.approx(0.95 * 400)
    bar.end("/a/one")
    bar.leave("/a/two")
    assert task.completed == pytest.approx(100)
    bar.begin("/a/three")
    assert task.fields["name"] == "2/3 three"


def test_the_time_left_is_not_guessed_from_the_first_module(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The worker process starts before it: the bar of a few seconds would show an hour."""
    bar = Bar({"/a/one": 1000})
    bar.begin("/a/one")
    [task], [*_, left] = bar._bar.tasks, bar._bar.columns
    assert isinstance(left, TimeRemainingColumn)
    monkeypatch.setattr(task, "get_time", itertools.count().__next__)
    shown = []
    for done in (1, 2, 500, 900):
        bar.step("/a/one", "compress", done, 1000)
        shown.append(left.render(task).plain)
    assert shown[:2] == ["-:--:--"] * 2
    assert re.fullmatch(r"0:00:0\d", shown[-1]), shown


@pytest.mark.slow
def test_once_into_a_file_logs_json_there(tmp_path: Path) -> None:
    """If only stderr is a terminal, it has the bar and readable lines; the file has the log."""
    server = HomeServer(tmp_path)
    server.drop("style.safetensors", seed=1)
    script = f"'{sys.executable}' -m lensd once --yes -c '{server.config}' > once.log"
    with AtTerminal(["/bin/sh", "-c", script], tmp_path, columns=WIDE) as terminal:
        assert terminal.wait() == 0
    log = (tmp_path / "once.log").read_text()
    events = [json.loads(line)["event"] for line in log.splitlines()]
    assert "file.compressed" in events
    assert "lensd: 1 compressed\n" in terminal.text
    assert "compressed  loras/style.safetensors" in terminal.text


@pytest.mark.parametrize(
    ("verb", "columns"),
    [
        (("status",), 80),
        (("once", "--dry-run"), 80),
        (("restore", "--list"), 80),
        (("restore", "--list"), WIDE),
    ],
)
def test_a_name_cannot_control_the_terminal(
    batch: Batch, verb: tuple[str, ...], columns: int
) -> None:
    """The control characters of a name are escaped, and it cannot forge a line."""
    with lensd(batch.server, *verb, columns=columns) as terminal:
        assert terminal.wait() == 0
    assert b"\x1b[2J" not in terminal.raw
    assert not re.search(r"^forged", terminal.text, re.MULTILINE)
    if verb[0] == "restore" and columns == WIDE:
        assert f"  loras/{SHOWN}\n" in terminal.text


@pytest.mark.parametrize(
    ("verb", "columns"),
    [
        ("report", 60),
        ("report", 80),
        ("status", 60),
        ("restore --list", 60),
        ("prune --dry-run", 60),
        ("check", 60),
    ],
)
def test_paths_are_short_and_lines_fit(batch: Batch, verb: str, columns: int) -> None:
    """Paths begin with the name of the watched folder; no line is wrapped by the terminal."""
    command, *options = verb.split()
    paths = [str(batch.server.loras / "good.safetensors")] if command == "prune" else []
    with lensd(batch.server, command, *options, *paths, columns=columns, wrap=False) as terminal:
        assert terminal.wait() == 0
    assert f"{batch.server.loras}/" not in terminal.text
    assert max(map(len, terminal.lines)) <= columns, terminal.text
    if command == "report":
        assert re.search(r"^unknown +ultra +3 ", terminal.text, re.MULTILINE), terminal.text
        assert "\nloras/bad.safetensors: not_finite\n" in terminal.text
        assert re.search(
            r"^ +\d\.\d +40\.3 kB  loras/good\.safetensors$", terminal.text, re.MULTILINE
        )


@pytest.mark.slow
def test_verify_lists_only_faults_in_red(batch: Batch) -> None:
    """At a terminal, files that are ok have no line; NO_COLOR turns the colour off."""
    archived = batch.server.archive / "loras" / "good.safetensors"
    whole = archived.read_bytes()
    archived.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        with lensd(batch.server, "verify", columns=WIDE) as red:
            assert red.wait() == 1
        with lensd(batch.server, "verify", columns=WIDE, env={"NO_COLOR": "1"}) as plain:
            assert plain.wait() == 1
        piped = batch.server.lensd("verify").stdout
    finally:
        archived.write_bytes(whole)
    assert "\x1b[31m" in red.colours
    assert plain.colours == []
    for terminal in (red, plain):
        [line, summary] = terminal.text.splitlines()
        assert line.startswith("damaged     original ")
        assert summary.startswith("1 original damaged, 2 originals ok, 3 outputs ok;")
    assert [line.split()[0] for line in piped.splitlines()].count("ok") == 5


def test_status_has_the_reason_below_the_path(batch: Batch) -> None:
    """The facts come first; then each failed file, on a line that can be copied, and its cause."""
    with lensd(batch.server, "status", columns=WIDE) as terminal:
        assert terminal.wait() == 0
    lines = terminal.lines
    assert lines[0].split(maxsplit=1) == ["daemon", "not running"]
    assert "3 compressed, 1 failed" in terminal.text
    title = lines.index("failed or quarantined: 1")
    assert lines[title + 1] == "  loras/bad.safetensors"
    assert re.match(r" {6}failed \(not_finite\): 1 of 6 modules have NaN", lines[title + 2])


@pytest.mark.slow
def test_restore_prints_each_file_once(tmp_path: Path) -> None:
    """One message per file, above the bar, and no log line for it."""
    server = HomeServer(tmp_path)
    server.drop("style.safetensors", seed=1)
    server.once()
    with lensd(server, "restore", "--all", columns=WIDE) as terminal:
        assert terminal.wait() == 0
    [line] = terminal.text.splitlines()
    assert line == "lensd: restored loras/style.safetensors (move from the archive)"
    with lensd(server, "status", columns=WIDE) as terminal:
        assert terminal.wait() == 0
    assert "\nfiles       1 restored\n" in terminal.text


@pytest.mark.slow
def test_thousands_of_files(tmp_path: Path) -> None:
    """`status` shows the first files and the number of the others; a pipe gets all of them."""
    server = HomeServer(tmp_path)
    server.state.mkdir()
    ledger = Ledger(str(server.state), "0")
    for number in range(QUEUED):
        name = f"{number:04}.safetensors"
        identity = Identity(1, number, 1000 + number, 0, 0)
        ledger.jobs.enqueue(f"{number:016x}", str(server.loras), "loras", name, identity)
    ledger.close()
    with lensd(server, "status", columns=WIDE) as terminal:
        assert terminal.wait() == 0
    assert "queued: 3,000\n" in terminal.text
    assert "   1.0 kB  loras/0000.safetensors\n" in terminal.text
    assert "and 2,990 more; `lensd status --all` shows them" in terminal.text
    assert len(terminal.lines) < 24
    piped = server.lensd("status").stdout.splitlines()
    assert sum(line.startswith("queued: ") for line in piped) == QUEUED


def test_once_without_files(tmp_path: Path) -> None:
    """The plan says so, and no question is asked."""
    server = HomeServer(tmp_path)
    with lensd(server, "once") as terminal:
        assert terminal.wait() == 0
    assert terminal.lines == ["loras: nothing to do"]


def test_analyze_shows_a_bar_and_then_tables(tmp_path: Path) -> None:
    """The bar has the file and its bytes. Afterwards only tables and messages are left."""
    small_lora(tmp_path / "style.safetensors", seed=5)
    (tmp_path / "page.safetensors").write_text("<html></html>")
    command = [sys.executable, "-m", "lensd", "analyze", "page.safetensors", "style.safetensors"]
    with AtTerminal(command, tmp_path, columns=WIDE) as terminal:
        assert terminal.wait() == 0
    assert terminal.lines[0].startswith("lensd: skipped: page.safetensors: ")
    assert b"2/2 style.safetensors" in terminal.raw
    assert any(sign in terminal.raw.decode() for sign in BAR)
    assert not any(sign in terminal.text for sign in BAR)
    rows = [line.split() for line in terminal.lines]
    assert ["mode", "bytes", "times", "smaller"] in rows
    assert "all" in [row[0] for row in rows if row]


def test_compare_breaks_no_name(tmp_path: Path) -> None:
    """The names of modules are shortened in their middle; usage errors are folded, too."""
    for name, seed in (("a", 1), ("b", 2)):
        small_lora(tmp_path / f"{name}.safetensors", seed=seed)
    command = [sys.executable, "-m", "lensd"]
    with AtTerminal([*command, "compare", "a.safetensors", "b.safetensors"], tmp_path) as terminal:
        assert terminal.wait() == 0
    rows = [line for line in terminal.lines if line.startswith("lora_")]
    assert len(rows) == 5
    assert all(" dB " in row and row.endswith("16 -> 16") for row in rows)
    name = "a-name-that-is-nearly-as-long-as-a-line.safetensors"
    (tmp_path / name).touch()
    with AtTerminal([*command, name], tmp_path) as terminal:
        assert terminal.wait() == 2
    assert f"{name}`?" in " ".join(terminal.text.split())


@pytest.mark.slow
def test_a_narrow_bar_keeps_name_and_count(tmp_path: Path) -> None:
    """At 60 columns it has no rate; a wide one has."""
    for name in ("page", "style"):
        small_lora(tmp_path / f"{name}.safetensors", seed=5)
    command = [sys.executable, "-m", "lensd", "analyze", "page.safetensors", "style.safetensors"]
    for columns, has_rate in ((60, False), (120, True)):
        with AtTerminal(command, tmp_path, columns=columns) as terminal:
            assert terminal.wait() == 0
        assert b"2/2 style.safetensors" in terminal.raw
        assert (b"B/s" in terminal.raw) == has_rate


@pytest.mark.slow
def test_sigterm_leaves_nothing_behind(tmp_path: Path) -> None:
    """It ends a computation: bar and temporary are gone, and the cursor is visible."""
    small_lora(tmp_path / "style.safetensors", seed=5)
    command = [sys.executable, "-m", "lensd", "compress", "style.safetensors"]
    with AtTerminal(command, tmp_path) as terminal:
        terminal.wait_for("style.safetensors .* 0.0/40.3 kB")
        terminal.signal(signal.SIGTERM)
        assert terminal.wait() == 128 + signal.SIGTERM, terminal.text
    assert terminal.lines == []
    assert terminal.raw.rindex(b"\x1b[?25h") > terminal.raw.rindex(b"\x1b[?25l")
    assert [path.name for path in tmp_path.iterdir()] == ["style.safetensors"]


@pytest.mark.parametrize("columns", ["0", "00", "-5", "abc", "99999999999"])
def test_columns_that_are_no_size(batch: Batch, columns: str) -> None:
    """`COLUMNS` from a shell without a terminal: the terminal is asked for its size instead."""
    for verb in ("status", "report"):
        with lensd(batch.server, verb, env={"COLUMNS": columns}) as terminal:
            assert terminal.wait() == 0
