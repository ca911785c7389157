"""`lensd prune`: an original goes when it is old and its output provably there; else it stays."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.user_programs import exchange
from tests.support.aging import age
from tests.support.home_server import HomeServer, Seen
from tests.support.running import Line, parse_line

PRUNED = "file.pruned"


def _replace(path: Path) -> None:
    path.write_bytes(b"somebody's own bytes")


def _rot(path: Path) -> None:
    """One bit, with the date as it was: as a disk does it."""
    found = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


# name: what happens to it, to the output or in the archive, and why its original stays
HARMS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "changed": (_replace, "output", "not lensd's output"),
    "rotten": (_rot, "output", "changed or is damaged"),
    "gone": (Path.unlink, "output", "not there"),
    "damaged": (_rot, "original", "original is damaged"),
    "lost": (Path.unlink, "original", "original is not there"),
}
NAMES = ("old", "young", "restored", *HARMS)


class Pruned:
    """A home server that keeps originals for 30 days: files of each kind, then one `prune`."""

    def __init__(self, server: HomeServer) -> None:
        server.configure(keep_days=30)
        self.server = server
        self.path = {n: server.loras / f"{n}.safetensors" for n in NAMES}
        for seed, name in enumerate(NAMES):
            server.drop(f"{name}.safetensors", seed=seed)
        self.original = {name: Seen.of(path) for name, path in self.path.items()}
        server.once()
        for name, path in self.path.items():
            age(server, path, 29 if name == "young" else 31)
        for name, (harm, where, _) in HARMS.items():
            harm(self.path[name] if where == "output" else server.archived(self.path[name]))
        assert server.lensd("restore", self.path["restored"]).returncode == 0
        self.held = server.status()["totals"]["held_by_archive"]
        self.before = self._seen()
        dry = server.lensd("prune", "--dry-run")
        assert (dry.returncode, self.before) == (0, self._seen())
        self.dry = dry.stdout
        self.lines, self.said = _prune(server)
        self.after = self._seen()

    def _seen(self) -> dict[Path, Seen]:
        places = (self.server.loras, self.server.archive)
        return {p: Seen.of(p) for place in places for p in place.rglob("*.safetensors")}


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Pruned:
    return Pruned(HomeServer(tmp_path_factory.mktemp("server")))


@pytest.fixture
def server(tmp_path: Path) -> HomeServer:
    server = HomeServer(tmp_path)
    server.configure(keep_days=30)
    return server


def _prune(server: HomeServer, *arguments: str | Path) -> tuple[list[Line], str]:
    """The lines of its log, each valid, and what it said."""
    before, log = server.config.read_text(), server.top / "prune.log"
    server.config.write_text(json.dumps(json.loads(before) | {"log": {"path": str(log)}}))
    log.unlink(missing_ok=True)
    done = server.lensd("prune", *arguments)
    server.config.write_text(before)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    return [parse_line(text) for text in log.read_text().splitlines()], done.stderr


def test_one_old_original_goes_and_nothing_else_changes(pruned: Pruned) -> None:
    """Its output stays as it is. One line in the log; the dry run had said so."""
    path = pruned.path["old"]
    archived = pruned.server.archived(path)
    [line] = pruned.lines
    assert (line["event"], line["path"]) == ("file.pruned", str(path))
    assert (line["sha256"], line["bytes"]) == pruned.original["old"][0:4:3]
    assert line["archive_path"] == str(archived)
    assert pruned.before == {**pruned.after, archived: pruned.before[archived]}
    assert archived not in pruned.after
    [told] = [text for text in pruned.dry.splitlines() if text.startswith("would delete: ")]
    assert str(path) in told
    assert "1 original deleted" in pruned.said


def test_a_pruned_original_is_known_as_such(pruned: Pruned) -> None:
    """Restore says when and why; status holds less; verify misses nothing."""
    server, path = pruned.server, pruned.path["old"]
    held = server.status()["totals"]["held_by_archive"]
    assert held == pruned.held - pruned.original["old"].size
    done = server.lensd("restore", path)
    assert done.returncode == 2
    assert "deleted from the archive on 2" in done.stderr
    assert "keep_days: 30" in done.stderr
    assert str(path) not in server.lensd("restore", "--list").stdout
    checked = server.lensd("verify", path)
    assert checked.returncode == 0, checked.stdout
    assert "pruned" in checked.stdout


@pytest.mark.parametrize("name", HARMS)
def test_an_original_stays_where_not_all_is_as_it_should_be(pruned: Pruned, name: str) -> None:
    """It is told why, by the dry run too."""
    for text in (pruned.dry, pruned.said):
        [line] = [line for line in text.splitlines() if str(pruned.path[name]) in line]
        assert "stays: " in line
        assert HARMS[name][2] in line


@pytest.mark.parametrize("name", ["young", "restored"])
def test_what_is_not_due_is_not_spoken_of(pruned: Pruned, name: str) -> None:
    """A day too early is too early; and a restored file is its own original."""
    assert str(pruned.path[name]) not in pruned.dry + pruned.said


@pytest.mark.slow
def test_a_running_daemon_does_it(server: HomeServer) -> None:
    """The line is in the daemon's log, the words come back to who asked; --dry-run needs nobody."""
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        path = server.drop("old.safetensors", seed=7).path
        daemon.wait_for_file(path, "file.compressed")
        age(server, path, 31)
        dry = server.lensd("prune", "--dry-run")
        assert (dry.returncode, f"would delete: {path}" in dry.stdout) == (0, True)
        done = server.lensd("prune")
        assert (done.returncode, f"deleted: {path}" in done.stderr) == (0, True)
        daemon.wait_for_file(path, "file.pruned")
    assert not server.archived(path).exists()


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


class Named:
    """A home server without `keep_days`: files that were compressed just now."""

    def __init__(self, server: HomeServer) -> None:
        self.server = server
        names = ("one", "two", "rotten", "deleted", "copied", "sub/moved", "away/gone", "sub/kept")
        self.path = {name: server.loras / f"{name}.safetensors" for name in names}
        for seed, path in enumerate(self.path.values()):
            server.drop(str(path.relative_to(server.loras)), seed=seed)
        server.once()

    def has_original(self, name: str) -> bool:
        return self.server.archived(self.path[name]).exists()


@pytest.fixture
def named(tmp_path: Path) -> Named:
    return Named(HomeServer(tmp_path))


@pytest.mark.slow
def test_a_named_original_goes_however_young_it_is(named: Named) -> None:
    """Only that one, if its output is there and undamaged; a pattern names several."""
    server, path = named.server, named.path
    _rot(path["rotten"])
    dry = server.lensd("prune", "--dry-run", path["one"])
    assert f"would delete: {path['one']}" in dry.stdout
    [line], _ = _prune(server, path["one"])
    assert (line["event"], line["path"]) == ("file.pruned", str(path["one"]))
    assert [name for name in path if not named.has_original(name)] == ["one"]
    lines, said = _prune(server, path["rotten"], server.loras / "tw*")
    assert [line["path"] for line in lines] == [str(path["two"])]
    assert f"stays: {path['rotten']}" in said
    assert named.has_original("rotten")
    done = server.lensd("prune", server.loras / "nothing*")
    assert (done.returncode, "has no originals of" in done.stderr) == (2, True)


def test_originals_of_deleted_files(named: Named) -> None:
    """A file that was moved or has a copy keeps its original, and so does one that is there."""
    server, path = named.server, named.path
    shutil.copyfile(path["copied"], server.loras / "copy.safetensors")
    server.once()  # records the copy
    path["copied"].unlink()
    path["deleted"].unlink()
    named.path["sub/moved"] = path["sub/moved"].rename(server.loras / "elsewhere.safetensors")
    shutil.rmtree(path["away/gone"].parent)
    dry = server.lensd("prune", "--deleted", "--dry-run").stdout.splitlines()
    would = [line.split()[2] for line in dry if line.startswith("would delete: ")]
    assert set(would) == {str(path["deleted"]), str(path["away/gone"])}
    before = server.status()["totals"]["outcomes"]["compressed"]
    lines, _ = _prune(server, "--deleted")
    assert [line["path"] for line in lines if line["event"] == PRUNED] == would
    assert server.status()["totals"]["outcomes"]["compressed"] == before - len(would)
    gone = [name for name in path if not named.has_original(name)]
    assert gone == ["deleted", "away/gone"]
    assert server.lensd("restore", server.loras / "elsewhere.safetensors").returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("bring_back", [shutil.move, shutil.copyfile])
def test_an_older_version_whose_output_is_back_elsewhere(
    named: Named, bring_back: Callable[[Path, Path], object]
) -> None:
    """It came while no lensd ran, and keeps its original: the path names another file."""
    server, path = named.server, named.path["one"]
    older, back = server.elsewhere / "older", server.loras / "back.safetensors"
    original = Seen.of(server.archived(path)).sha256
    path.rename(older)
    server.drop(path.name, seed=70)
    server.once()
    bring_back(older, back)
    dry = server.lensd("prune", "--dry-run", path).stdout
    assert dry.count("would delete: ") == 1
    deleted = [line["sha256"] for line in _prune(server, path)[0] if line["event"] == PRUNED]
    assert len(deleted) == 1
    assert original not in deleted
    path.unlink()
    assert [] == _prune(server, "--deleted")[0]
    done = server.lensd("restore", back)
    assert done.returncode == 0, done.stderr
    assert Seen.of(back).sha256 == original


@pytest.mark.slow
def test_copies_that_the_intake_did_not_recognize(named: Named) -> None:
    """One with a hard link is refused before lensd reads its marks; its original stays, too."""
    server, path = named.server, named.path
    copy = server.loras / "linked.safetensors"
    shutil.copyfile(path["copied"], copy)
    os.link(copy, server.elsewhere / "other name")
    [line] = [line for line in server.once() if line["event"] == "file.skipped"]
    assert line["reason"] == "hardlinked"
    path["copied"].unlink()
    assert [] == _prune(server, "--deleted")[0]
    assert named.has_original("copied")


@pytest.mark.slow
def test_a_file_that_was_moved_while_no_lensd_ran(named: Named) -> None:
    """`prune` takes the original of the file that is there; a dry run says where the file is."""
    server, one, two = named.server, named.path["one"], named.path["two"]
    exchange(one, two)
    original = Seen.of(server.archived(two)).sha256
    dry = server.lensd("prune", "--dry-run", one).stdout
    assert f"stays: {two}" in dry
    assert f"its file is {one} now" in dry
    lines, _ = _prune(server, one)
    deleted = [(line["path"], line["sha256"]) for line in lines if line["event"] == PRUNED]
    assert deleted == [(str(one), original)]
    assert server.lensd("restore", two).returncode == 0
    assert server.lensd("restore", one).returncode == 2


@pytest.mark.slow
def test_an_original_after_a_redo_that_was_refused(named: Named) -> None:
    """It has its size, and the row of the redo keeps its reason."""
    server, path = named.server, named.path["one"]
    size = server.archived(path).stat().st_size
    os.link(path, server.elsewhere / "other name")
    server.once("--redo", path)
    [line], _ = _prune(server, path)
    assert line["bytes"] == size
    [problem] = server.status()["uncompressed"]
    assert "hard links" in problem["message"]


@pytest.mark.slow
def test_what_was_deleted_by_hand_leaves_the_totals(named: Named) -> None:
    """A file and an original of another one, with a line each; they count again when they are back.

    The original of the deleted file is still held, and can be restored.
    """
    server, path = named.server, named.path
    before = server.status()["totals"]
    output, original = path["deleted"], server.archived(path["one"])
    kept = [shutil.copy2(p, server.elsewhere / f"{n}") for n, p in enumerate((output, original))]
    sizes = output.stat().st_size, original.stat().st_size
    saved = server.archived(output).stat().st_size - sizes[0]
    output.unlink()
    original.unlink()
    lines = [line for line in server.once() if line["event"] == "file.deleted"]
    assert {(line["path"], line["what"], line["bytes"]) for line in lines} == {
        (str(output), "file", sizes[0]),
        (str(path["one"]), "original", sizes[1]),
    }
    totals = server.status()["totals"]
    assert totals["outcomes"]["compressed"] == before["outcomes"]["compressed"] - 1
    assert totals["saved_in_folders"] == before["saved_in_folders"] - saved
    assert totals["held_by_archive"] == before["held_by_archive"] - sizes[1]
    assert not [line for line in server.once() if line["event"] == "file.deleted"]
    for copy, place in zip(kept, (output, original), strict=True):
        shutil.move(copy, place)
    server.once()
    after = server.status()["totals"]
    assert all(after[name] == before[name] for name in ("saved_in_folders", "held_by_archive"))
    assert after["outcomes"]["compressed"] == before["outcomes"]["compressed"]


@pytest.mark.slow
def test_no_original_goes_while_its_folder_is_away(named: Named) -> None:
    """An empty folder is that of a disk that is not mounted."""
    server = named.server
    for name in named.path:
        named.path[name].rename(server.elsewhere / Path(name).name)
    for folder in (server.loras / "sub", server.loras / "away"):
        folder.rmdir()
    assert [] == _prune(server, "--deleted")[0]
    assert all(map(named.has_original, named.path))


@pytest.mark.slow
def test_deleted_files_keep_their_originals_for_keep_days(named: Named) -> None:
    """Unless the path is named."""
    server, path = named.server, named.path["deleted"]
    server.configure(keep_days=30)
    path.unlink()
    lines, said = _prune(server, "--deleted")
    assert lines == []
    assert "0 originals deleted" in said
    [line], _ = _prune(server, "--deleted", path)
    assert line["path"] == str(path)


@pytest.mark.slow
def test_the_oldest_originals_go_beyond_max_size(named: Named) -> None:
    """As many as it needs, and none of the last day."""
    server, path = named.server, named.path
    size = server.archived(path["one"]).stat().st_size
    server.configure(max_size=f"{int(size * 6.5)}B")
    assert [] == _prune(server)[0]
    for days, name in enumerate(("two", "rotten", "one"), 2):
        age(server, path[name], days)
    dry = server.lensd("prune", "--dry-run").stdout
    assert dry.count("would delete: ") == 2
    lines, _ = _prune(server)
    assert [line["path"] for line in lines] == [str(path["one"]), str(path["rotten"])]
    assert server.status()["totals"]["held_by_archive"] <= 6.5 * size
    done = server.lensd("restore", path["one"])
    assert "since the archive exceeded archive.max_size" in done.stderr
