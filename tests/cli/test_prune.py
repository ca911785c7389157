"""`lensd prune`: an original goes when it is old and its output provably there; else it stays."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.aging import age
from tests.support.home_server import HomeServer, Seen
from tests.support.marks import needs_program
from tests.support.running import Line, parse_line
from tests.support.suites import sample

NAMES = ("old", "young", "changed", "rotten", "gone", "bare", "damaged", "lost", "restored", "dry")


class Files:
    """A home server after one run that keeps originals for 30 days. Each test has its own file."""

    def __init__(self, server: HomeServer) -> None:
        server.configure(keep_days=30)
        self.server = server
        paths = [server.drop(f"{n}.safetensors", seed=s).path for s, n in enumerate(NAMES)]
        self.before = {path.stem: Seen.of(path) for path in paths}
        server.once()

    def take(self, name: str, *, days: float = 31) -> tuple[HomeServer, Path]:
        path = self.server.loras / f"{name}.safetensors"
        age(self.server, path, days)
        return self.server, path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(HomeServer(tmp_path_factory.mktemp("server")))


@pytest.fixture
def server(tmp_path: Path) -> HomeServer:
    server = HomeServer(tmp_path)
    server.configure(keep_days=30)
    return server


def _prune(server: HomeServer) -> tuple[list[Line], str]:
    """The lines of its log, each valid, and what it said."""
    done = server.lensd("prune")
    assert done.returncode == 0, done.stderr
    return [parse_line(text) for text in done.stdout.splitlines()], done.stderr


def test_an_old_original_goes_and_the_output_stays(files: Files) -> None:
    """One line in the log; restore says when and why; status holds less; a second time: nothing."""
    server, path = files.take("old")
    output, held = Seen.of(path), server.status()["totals"]["held_by_archive"]
    lines, said = _prune(server)
    [line] = [found for found in lines if found["path"] == str(path)]
    assert (line["event"], line["sha256"]) == ("file.pruned", files.before["old"].sha256)
    assert line["archive_path"] == str(server.archived(path))
    assert "1 originals deleted" in said
    assert not server.archived(path).exists()
    assert output == Seen.of(path)
    size = files.before["old"].size
    assert server.status()["totals"]["held_by_archive"] == held - size == held - line["bytes"]
    again = server.lensd("restore", path)
    assert again.returncode == 2
    assert "deleted from the archive on 2" in again.stderr
    assert "keep_days: 30" in again.stderr
    assert str(path) not in server.lensd("restore", "--list").stdout
    assert [] == [found for found in _prune(server)[0] if found["path"] == str(path)]
    checked = server.lensd("verify", path)
    assert checked.returncode == 0, checked.stdout
    assert "pruned" in checked.stdout


def test_a_young_original_stays_without_a_word(files: Files) -> None:
    """A day too early is too early."""
    server, path = files.take("young", days=29)
    _, said = _prune(server)
    assert str(path) not in said
    assert Seen.of(server.archived(path)).sha256 == files.before["young"].sha256


def _replace(path: Path) -> None:
    path.write_bytes(b"somebody's own bytes")


def _rot(path: Path) -> None:
    """One bit, with the date as it was: as a disk does it."""
    found = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


@pytest.mark.parametrize(
    ("name", "harm", "where", "says"),
    [
        ("changed", _replace, "loras", "not lensd's output"),
        ("rotten", _rot, "loras", "changed or is damaged"),
        ("gone", Path.unlink, "loras", "not there"),
        ("damaged", _rot, "archive", "original is damaged"),
        ("lost", Path.unlink, "archive", "original is not there"),
    ],
)
def test_an_original_stays_where_the_output_or_it_is_not_what_it_should_be(
    files: Files, name: str, harm: object, where: str, says: str
) -> None:
    """It is told why, by the dry run too, and nothing in the archive changes."""
    server, path = files.take(name)
    archived = server.archived(path)
    assert callable(harm)
    harm(path if where == "loras" else archived)
    before = Seen.of(archived) if archived.exists() else None
    dry = server.lensd("prune", "--dry-run").stdout
    _, said = _prune(server)
    for text in (dry, said):
        [line] = [line for line in text.splitlines() if str(path) in line]
        assert "stays: " in line
        assert says in line
    assert before == (Seen.of(archived) if archived.exists() else None)


def test_a_restored_file_has_no_original_to_prune(files: Files) -> None:
    """It moved back; the file under the name is the original."""
    server, path = files.take("restored")
    assert server.lensd("restore", path).returncode == 0
    _, said = _prune(server)
    assert str(path) not in said
    assert Seen.of(path).sha256 == files.before["restored"].sha256


def test_a_dry_run_tells_and_changes_nothing(files: Files) -> None:
    """Beside a running daemon as well; the real run beside one is refused."""
    server, path = files.take("dry")
    before = Seen.of(server.archived(path))
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready", 30)
        done = server.lensd("prune", "--dry-run")
        assert done.returncode == 0, done.stderr
        [line] = [line for line in done.stdout.splitlines() if str(path) in line]
        assert line.startswith("would delete: ")
        assert str(server.archived(path)) in line
        assert server.lensd("prune").returncode == 6
    assert before == Seen.of(server.archived(path))


def test_without_keep_days_nothing_is_ever_old(server: HomeServer) -> None:
    """Exit 4, and what to write."""
    server.configure()
    done = server.lensd("prune")
    assert done.returncode == 4
    assert "keep_days: 90" in done.stderr


@pytest.mark.slow
def test_an_older_version_ages_from_when_it_was_replaced(server: HomeServer) -> None:
    """Then it goes with the newest; rescued bytes and what the ledger does not know stay."""
    path = server.drop("style.safetensors", seed=1).path
    first = Seen.of(path).sha256
    server.once()
    age(server, path, 400)
    second = Seen.of(server.drop("style.safetensors", seed=2).path).sha256
    server.once()
    version = server.archive / ".versions" / first / "loras" / path.name
    strange = server.archive / ".versions" / ("0" * 64) / "loras" / "strange.safetensors"
    rescued = server.archive / "rescued" / "x" / "loras" / path.name
    for file in (strange, rescued):
        file.parent.mkdir(parents=True)
        file.write_bytes(b"somebody's")
    assert [] == _prune(server)[0]
    assert Seen.of(version).sha256 == first
    age(server, path, 31, version=second)
    lines, _ = _prune(server)
    assert {first, second} == {line["sha256"] for line in lines}
    assert not version.exists()
    assert not server.archived(path).exists()
    assert strange.exists()
    assert rescued.exists()


@pytest.mark.slow
def test_an_older_version_stays_when_the_newest_output_does_not_verify(server: HomeServer) -> None:
    """Whoever deleted or changed the file may want to go back."""
    path = server.drop("style.safetensors", seed=1).path
    first = Seen.of(path).sha256
    server.once()
    server.drop("style.safetensors", seed=2)
    server.once()
    age(server, path, 31)
    _rot(path)
    lines, said = _prune(server)
    assert [] == lines
    assert said.count("stays: ") == 2
    assert Seen.of(server.archive / ".versions" / first / "loras" / path.name).sha256 == first


@pytest.mark.slow
def test_a_redone_file_ages_anew(server: HomeServer) -> None:
    """Who changed the settings yesterday may want to change them again tomorrow."""
    path = server.drop("style.safetensors", seed=1).path
    server.once()
    age(server, path, 400)
    server.configure(keep_days=30, defaults={"energy": 0.9})
    server.once("--redo", path)
    assert [] == _prune(server)[0]
    assert server.archived(path).exists()
    age(server, path, 31)
    assert [str(path)] == [line["path"] for line in _prune(server)[0]]
    assert not server.archived(path).exists()


# As `strace` counts them from the first step of a prune of two files to its last.
KILLS = [
    *(("fsync", n) for n in (1, 2)),
    *(("unlinkat", n) for n in (1, 2)),
    *(("fdatasync", n) for n in range(1, 11)),
    *(("pwrite64", n) for n in range(10, 38)),
]


@pytest.mark.slow
@pytest.mark.fault("killed")
@needs_program("strace")
@pytest.mark.parametrize(("call", "number"), sample(KILLS[:4], 4) + sample(KILLS[4:], 6))
def test_a_killed_prune_leaves_nothing_that_verify_would_call_lost(
    server: HomeServer, call: str, number: int
) -> None:
    """The ledger never counts on an original that is gone; the next run finishes, with its line."""
    paths = [server.drop(f"{name}.safetensors", seed=s).path for s, name in enumerate("ab")]
    server.once()
    for path in paths:
        age(server, path, 31)
    outputs = [Seen.of(path) for path in paths]
    killed = server.lensd("prune", prefix=_killed_at(call, number, server.top))
    assert killed.returncode == -9, killed.stderr
    said = [parse_line(text) for text in killed.stdout.splitlines()]
    checked = server.lensd("verify")
    assert checked.returncode == 0, checked.stdout
    lines = said + _prune(server)[0]
    assert {str(path) for path in paths} == {line["path"] for line in lines}
    assert not any(server.archived(path).exists() for path in paths)
    assert outputs == [Seen.of(path) for path in paths]
    assert [] == _prune(server)[0]
    assert server.lensd("verify").returncode == 0


def _killed_at(call: str, number: int, folder: Path) -> list[str]:
    trace = ["strace", "-f", "-qq", "-o", str(folder / "strace"), "-e", f"trace={call}"]
    return [*trace, "-e", f"inject={call}:signal=SIGKILL:when={number}"]
