"""Fixtures of all tests: an empty home, a check of the real one, the shared folder if there."""

from __future__ import annotations

import os
import pwd
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from _pytest.terminal import TerminalReporter

os.environ["HYPOTHESIS_NO_PLUGINS"] = "1"  # trio has one, and starlette brings trio along
from hypothesis import settings

from tests.support import suites

REPOSITORY = Path(__file__).resolve().parent.parent

# A shell without job control starts `make test &` with ^C ignored. Children would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A deadline per example measures the machine's load, not lensd. Each run tries other examples, so
# that few a run are many over the days; CI tries the same ones, so that a red run can be repeated.
settings.register_profile(
    "lensd",
    deadline=None,
    derandomize="CI" in os.environ,
    max_examples=50 if suites.FULL else 30,
)
settings.load_profile("lensd")

HOMES = {Path.home(), Path(pwd.getpwuid(os.getuid()).pw_dir)}
BASES = (".config", ".cache", ".local/share", ".local/state")


@pytest.fixture(autouse=True)
def home(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """An empty home for the test and its children. A test that writes to the real one fails."""
    before = _lensd_in_real_homes()
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(folder))
    for name in ("CONFIG", "CACHE", "DATA", "STATE", "RUNTIME"):
        monkeypatch.delenv(f"XDG_{name}_{'DIR' if name == 'RUNTIME' else 'HOME'}", raising=False)
    yield folder
    touched = _lensd_in_real_homes() ^ before
    assert not touched, f"the test wrote into the real home: {sorted(p for p, _ in touched)}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that runs a script in another process is not for the fast tier."""
    for item in items:
        if {"run_python", "run_refused"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.lengthy)


def _lensd_in_real_homes() -> set[tuple[str, int]]:
    """Every path of lensd in the real homes, with its time of change."""
    found: set[tuple[str, int]] = set()
    for folder in (home / name / "lensd" for home in HOMES for name in BASES):
        if folder.exists():  # it seldom does, and this is done twice for each test
            paths = (folder, *folder.rglob("*"))
            found |= {(str(path), path.lstat().st_mtime_ns) for path in paths if path.exists()}
    return found


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder beside the repository with real files and tables; skips where it is absent."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the folder ../shared with real LoRA files is not there")
    return folder


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """A line for the end of the run, such as how many cases a matrix had."""
    return lambda text: record_property(suites.TOLD, text)


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    suites.summarize(terminalreporter)
