"""`lensd restore`: the original back, bit by bit the same."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.support.home_server import HomeServer, Seen
from tests.support.marks import needs_program, needs_root
from tests.support.protected import protected

NAMES = [
    f"{name}.safetensors"
    for name in (
        *(
            "one",
            "other",
            "deleted",
            "replaced",
            "edited",
            "lengthened",
            "damaged",
            "gone",
            "redone",
        ),
        *("open output", "open original", "immutable i", "immutable a"),
    )
]


class Files:
    """A home server after one run, and what its files were before. Each test has its own file."""

    def __init__(self, server: HomeServer) -> None:
        self.server = server
        self.before = dict(_compressed(server, *NAMES))

    def take(self, name: str) -> tuple[HomeServer, Path, Seen]:
        path = self.server.loras / f"{name}.safetensors"
        return self.server, path, self.before[path]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(HomeServer(tmp_path_factory.mktemp("server")))


@pytest.fixture
def server(tmp_path: Path) -> HomeServer:
    return HomeServer(tmp_path)


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on another device than tmp_path."""
    shared_memory = Path("/dev/shm")  # noqa: S108
    if not shared_memory.is_dir() or shared_memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no other device in shared memory")
    folder = shared_memory / f"lensd-restore-{os.getpid()}"
    folder.mkdir()
    yield folder
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def _compressed(server: HomeServer, *names: str) -> list[tuple[Path, Seen]]:
    """Drop files with attributes of their own, and compress them."""
    files = []
    for seed, name in enumerate(names):
        path = server.drop(name, seed=seed).path
        path.chmod(0o604)
        os.setxattr(path, "user.note", os.fsencode(name))
        os.utime(path, ns=(10**18, 1_500_000_000_987_654_321 + seed))
        files.append((path, Seen.of(path)))
    server.once()
    return files


def _is_back(path: Path, before: Seen) -> bool:
    note = os.fsdecode(os.getxattr(path, "user.note"))
    return before == Seen.of(path)._replace(inode=before.inode) and path.name == note


@pytest.mark.fault("undo")
def test_one_file(files: Files) -> None:
    """Bytes, mode, owner, time and attributes; moved out of the archive, which needs no space."""
    server, path, before = files.take("one")
    other = server.loras / "other.safetensors"
    output = Seen.of(other)
    done = server.lensd("restore", path)
    assert done.returncode == 0, done.stderr
    assert "move" in done.stderr
    assert done.stdout == ""
    assert _is_back(path, before)
    assert not server.archived(path).exists()
    assert output == Seen.of(other)
    again = server.lensd("restore", path)
    assert again.returncode == 2
    assert "is the original itself" in again.stderr
    assert _is_back(path, before)


def test_all_and_list(server: HomeServer) -> None:
    """The list changes nothing and names every original; `--all` brings back each."""
    files = _compressed(server, "a.safetensors", "sub.safetensors")
    outputs = [Seen.of(path) for path, _ in files]
    listed = server.lensd("restore", "--list")
    assert (listed.returncode, listed.stderr) == (0, "")
    for path, before in files:
        assert f"{path}  " in listed.stdout
        assert before.sha256[:12] in listed.stdout
    assert outputs == [Seen.of(path) for path, _ in files]
    assert server.lensd("restore", "--all").returncode == 0
    assert all(_is_back(path, before) for path, before in files)
    assert server.lensd("restore", "--list").stdout == ""
    assert [] == server.temporaries()


@pytest.mark.slow
def test_folders_and_patterns(server: HomeServer) -> None:
    """Also of a folder that was deleted. A sum comes last; where nothing fits, --all is named."""
    names = ("sdxl/a.safetensors", "sdxl/b.safetensors", "ink 1.safetensors", "ink 2.safetensors")
    before = {server.drop(name, seed=n).path: n for n, name in enumerate(names)}
    sizes = {path: path.stat().st_size for path in before}
    server.once()
    a, b, ink, ink2 = before
    done = server.lensd("restore", server.loras / "sdxl")
    assert done.returncode == 0, done.stderr
    assert f"lensd: restored 2 files, {sum(sizes[p] for p in (a, b)) / 1000:.1f} kB" in done.stderr
    assert done.stderr.count(f"restored {a} ") == 1
    done = server.lensd("restore", server.loras / "ink*")
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_size for path in before} == sizes
    done = server.lensd("restore", server.loras / "flux*")
    assert done.returncode == 2
    assert "`lensd restore --all` restores all of it" in done.stderr
    server.once("--redo")
    shutil.rmtree(server.loras / "sdxl")
    assert server.lensd("restore", server.loras / "sdxl").returncode == 0
    assert (a.stat().st_size, b.stat().st_size) == (sizes[a], sizes[b])
    assert ink.stat().st_size < sizes[ink]
    assert ink2.stat().st_size < sizes[ink2]


def test_a_deleted_output_is_no_obstacle(files: Files) -> None:
    """The original comes back under its name."""
    server, path, before = files.take("deleted")
    path.unlink()
    assert server.lensd("restore", path).returncode == 0
    assert _is_back(path, before)


def test_a_file_that_another_program_replaced_is_refused(files: Files) -> None:
    """Its bytes stay, and the original too; exit 1 with the remedy."""
    server, path, before = files.take("replaced")
    path.write_bytes(b"something else")
    done = server.lensd("restore", path)
    assert done.returncode == 1
    assert done.stderr.count(str(path)) == 1
    assert "Move it away" in done.stderr
    assert path.read_bytes() == b"something else"
    assert Seen.of(server.archived(path)).sha256 == before.sha256


def _edit(path: Path) -> None:
    """Other weights under the same header, the same size and the same time of change."""
    found = path.stat()
    with path.open("r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write(bytes(byte ^ 1 for byte in path.read_bytes()[-2:]))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def _write_anew(path: Path) -> None:
    """As a program that changes the metadata: all entries are kept, and one is added."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(load_file(path), path, {**metadata, "note": "mine"})


@pytest.mark.parametrize(("name", "edit"), [("edited", _edit), ("lengthened", _write_anew)])
def test_an_edited_output_is_refused(files: Files, name: str, edit: Callable[[Path], None]) -> None:
    """It has lensd's marks and other bytes: they stay, the original too; exit 1 with the remedy."""
    server, path, before = files.take(name)
    edit(path)
    edited = path.read_bytes()
    done = server.lensd("restore", path)
    assert edited == path.read_bytes()
    assert done.returncode == 1
    assert "edited" in done.stderr
    assert "Move it away" in done.stderr
    assert Seen.of(server.archived(path)).sha256 == before.sha256
    path.rename(path.with_suffix(".mine"))
    assert server.lensd("restore", path).returncode == 0
    assert _is_back(path, before)


@pytest.mark.slow
def test_a_redo_leaves_an_edited_output(files: Files) -> None:
    """With its old size and date: lensd compares its bytes before it replaces it."""
    server, path, before = files.take("redone")
    _edit(path)
    edited = path.read_bytes()
    [line] = [line for line in server.once("--redo", path) if line["event"].startswith("file.")]
    assert (line["event"], line["reason"]) == ("file.skipped", "changed")
    assert "edited" in line["message"]
    assert edited == path.read_bytes()
    assert Seen.of(server.archived(path)).sha256 == before.sha256
    assert [] == server.temporaries()


def test_a_damaged_original_is_not_put_back(files: Files) -> None:
    """The output stays; exit 1. The ledger has nothing of it, so the next try says the same."""
    server, path, _ = files.take("damaged")
    output, outcomes = Seen.of(path), server.status()["totals"]["outcomes"]
    archived = server.archived(path)
    data = bytearray(archived.read_bytes())
    data[-1] ^= 1
    archived.write_bytes(data)
    for _ in range(2):
        done = server.lensd("restore", path)
        assert done.returncode == 1
        assert "damaged" in done.stderr
    assert output == Seen.of(path)
    assert outcomes == server.status()["totals"]["outcomes"]


@pytest.mark.slow
def test_an_older_version(server: HomeServer) -> None:
    """By the beginning of its sha256; a wrong one is a usage error that names what there is."""
    [(path, oldest)] = _compressed(server, "a.safetensors")
    newer = Seen.of(server.drop("a.safetensors", seed=7).path)
    server.once()
    wrong = server.lensd("restore", path, "--version", "zzz")
    assert wrong.returncode == 2
    assert oldest.sha256[:12] in wrong.stderr
    assert server.lensd("restore", path, "--version", oldest.sha256[:10]).returncode == 0
    assert Seen.of(path).sha256 == oldest.sha256
    assert Seen.of(server.archived(path)).sha256 == newer.sha256


@pytest.mark.slow
def test_a_file_that_replaced_an_output_and_failed(server: HomeServer) -> None:
    """The error names the originals that the path had; --version restores one of them."""
    [(path, before)] = _compressed(server, "a.safetensors")
    server.drop("a.safetensors", seed=7)
    path.write_bytes(path.read_bytes()[:-2] + b"\xff\x7f")  # NaN
    server.once(code=1)
    done = server.lensd("restore", path)
    assert done.returncode == 2
    assert f"--version: {before.sha256[:12]}" in done.stderr
    path.unlink()
    assert server.lensd("restore", path, "--version", before.sha256).returncode == 0
    assert Seen.of(path).sha256 == before.sha256


@pytest.mark.slow
@pytest.mark.fault("undo")
def test_across_disks(server: HomeServer, other_disk: Path) -> None:
    """Copied and verified; the archive keeps its copy, unless `--purge` says otherwise."""
    server.configure(archive=other_disk)
    (kept, before), (purged, before_too) = _compressed(server, "a.safetensors", "b.safetensors")
    done = server.lensd("restore", kept)
    assert "copy" in done.stderr
    assert _is_back(kept, before)
    assert Seen.of(other_disk / "loras" / kept.name).sha256 == before.sha256
    assert server.lensd("restore", "--purge", purged).returncode == 0
    assert _is_back(purged, before_too)
    assert not (other_disk / "loras" / purged.name).exists()
    assert not [line for line in server.once() if line["event"].startswith("file.")]


@pytest.mark.slow
def test_without_a_ledger(server: HomeServer) -> None:
    """It was lost: the mark in the output and the archive's layout are enough.

    Whether the output was edited cannot be told then, so a copy of it is kept.
    """
    [(path, before)] = _compressed(server, "a.safetensors")
    _edit(path)
    edited = path.read_bytes()
    for file in server.state.iterdir():
        file.unlink()
    done = server.lensd("restore", path)
    assert done.returncode == 0, done.stderr
    assert _is_back(path, before)
    assert done.stdout == ""
    assert "lensd: file.rescued: " in done.stderr
    [kept] = [p for p in (server.archive / "rescued").rglob("*") if p.is_file()]
    assert kept.read_bytes() == edited


@pytest.mark.slow
def test_a_restore_that_fails_keeps_no_copy(server: HomeServer) -> None:
    """The ledger was lost and the original is damaged: the output keeps its name, once."""
    [(path, _)] = _compressed(server, "a.safetensors")
    for file in server.state.iterdir():
        file.unlink()
    with server.archived(path).open("r+b") as original:
        original.write(b"rot")
    output = Seen.of(path)
    assert server.lensd("restore", path).returncode != 0
    assert output == Seen.of(path)
    assert [] == list((server.archive / "rescued").rglob("*.safetensors"))


@pytest.mark.fault("written meanwhile")
@pytest.mark.parametrize("opened", ["output", "original"])
def test_a_file_that_a_program_has_open_for_writing_is_refused(files: Files, opened: str) -> None:
    """It may write later. The message says so; when it has closed the file, the next try works."""
    server, path, before = files.take(f"open {opened}")
    target = path if opened == "output" else server.archived(path)
    output = Seen.of(path)
    with target.open("r+b"):
        done = server.lensd("restore", path)
    assert (done.returncode, output) == (1, Seen.of(path))
    assert f"{target} open for writing" in done.stderr
    assert Seen.of(server.archived(path)).sha256 == before.sha256
    assert server.lensd("restore", path).returncode == 0
    assert _is_back(path, before)


@needs_program("chattr")
@needs_root
@pytest.mark.fault("immutable")
@pytest.mark.parametrize("flag", ["i", "a"])
def test_an_output_that_may_not_be_replaced(files: Files, flag: str) -> None:
    """The message names the file and the remedy; nothing is left behind."""
    server, path, before = files.take(f"immutable {flag}")
    names = sorted(path.parent.iterdir())
    with protected(path, flag):
        done = server.lensd("restore", path)
    assert done.returncode == 1
    assert str(path) in done.stderr
    assert "chattr -i -a" in done.stderr
    assert names == sorted(path.parent.iterdir())
    assert server.lensd("restore", path).returncode == 0
    assert _is_back(path, before)


def test_an_original_that_is_gone(files: Files) -> None:
    """File, cause and remedy, and not only the number of an error."""
    server, path, _ = files.take("gone")
    server.archived(path).unlink()
    done = server.lensd("restore", path)
    assert done.returncode == 1
    assert "Errno" not in done.stderr
    assert f"{server.archived(path)} is not there" in done.stderr
    assert "backup" in done.stderr


def test_usage(files: Files) -> None:
    """Nothing named, or a path elsewhere: exit 2 and a hint."""
    server = files.server
    for arguments, says in (([], "--list"), ([server.top / "x"], "in no watched folder")):
        done = server.lensd("restore", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert says in done.stderr


def test_the_name_alone_is_not_enough(server: HomeServer) -> None:
    """It may be that of files in several folders; the message has their paths."""
    path = server.drop("named/alone.safetensors", seed=9).path
    server.once()
    done = server.lensd("restore", "alone.safetensors")
    assert done.returncode == 2
    assert f"the archive has the original of {path}" in done.stderr


def test_the_name_that_a_terminal_shows(
    server: HomeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From any folder, unless that folder has another file of this name."""
    path = server.drop("shown.safetensors", seed=11).path
    server.once()
    other = tmp_path / "elsewhere/loras/shown.safetensors"
    other.parent.mkdir(parents=True)
    other.touch()
    monkeypatch.chdir(tmp_path / "elsewhere")
    done = server.lensd("restore", "loras/shown.safetensors")
    assert done.returncode == 2
    assert "in no watched folder" in done.stderr
    other.unlink()
    done = server.lensd("restore", "loras/shown.safetensors")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert f"restored {path} " in done.stderr


@pytest.mark.slow
def test_a_copy_whose_first_file_was_replaced_and_the_ledger_lost(server: HomeServer) -> None:
    """No row names the original any more, so lensd looks for it in the archive by its hash."""
    first = server.drop("first.safetensors", seed=1).path
    before = Seen.of(first)
    server.once()
    copy = server.loras / "copy.safetensors"
    shutil.copyfile(first, copy)
    server.drop("first.safetensors", seed=2)
    for path in server.state.glob("ledger*"):
        path.unlink()
    done = server.lensd("restore", copy)
    assert done.returncode == 0, done.stderr
    assert Seen.of(copy).sha256 == before.sha256
    assert Seen.of(server.archived(first)).sha256 == before.sha256


def test_a_copy_over_another_output(server: HomeServer) -> None:
    """The copy's original comes back; the archive keeps that of the output that was replaced."""
    (first, original), (second, replaced) = _compressed(server, "a.safetensors", "b.safetensors")
    shutil.copyfile(first, second)
    output = Seen.of(second)
    done = server.lensd("restore", server.loras / "b*")
    assert done.returncode == 1, done.stderr
    assert "is the output of another original now" in done.stderr
    assert Seen.of(second) == output
    done = server.lensd("restore", second)
    assert done.returncode == 0, done.stderr
    assert Seen.of(second).sha256 == original.sha256
    assert Seen.of(server.archived(first)).sha256 == original.sha256
    assert Seen.of(server.archived(second)).sha256 == replaced.sha256
    second.unlink()
    done = server.lensd("restore", second, "--version", replaced.sha256)
    assert done.returncode == 0, done.stderr
    assert Seen.of(second).sha256 == replaced.sha256


@pytest.mark.parametrize("known", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_file_and_a_copy_of_its_output(server: HomeServer, *, known: bool) -> None:
    """Both get the original, in each order, also if that of the first one was overwritten then."""
    files = _compressed(server, "a.safetensors", "b.safetensors", "c.safetensors")
    for path, _ in files:
        shutil.copyfile(path, path.with_stem("copy of " + path.stem))
    if known:
        server.once()
    for at, (path, before) in enumerate(files):
        copy = path.with_stem("copy of " + path.stem)
        for restored in (copy, path) if at == 0 else (path, copy):
            done = server.lensd("restore", restored)
            assert done.returncode == 0, done.stderr
            assert Seen.of(restored).sha256 == before.sha256
            assert "rescued" not in done.stderr
            if at == 2:
                path.write_bytes(b"edited")
        assert not server.archived(copy).exists()


@pytest.mark.parametrize("everything", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_file_and_a_copy_of_its_output_in_one_request(
    server: HomeServer, *, everything: bool
) -> None:
    """The copy comes first, since it shares the original that leaves the archive."""
    [(first, before)] = _compressed(server, "a.safetensors")
    copy = server.loras / "b.safetensors"
    shutil.copyfile(first, copy)
    if everything:
        server.once()
    done = server.lensd("restore", *(["--all"] if everything else [first, copy]))
    assert done.returncode == 0, done.stderr
    assert Seen.of(first).sha256 == Seen.of(copy).sha256 == before.sha256
    assert not list(server.archive.rglob("*.safetensors"))


@pytest.mark.slow
def test_purge_leaves_the_original_that_a_copy_needs(server: HomeServer) -> None:
    """Until the copy is restored, too."""
    [(first, before)] = _compressed(server, "a.safetensors")
    copy = server.loras / "b.safetensors"
    shutil.copyfile(first, copy)
    done = server.lensd("restore", "--purge", first)
    assert (done.returncode, "needs the original" in done.stderr) == (0, True)
    first.unlink()
    assert server.lensd("restore", "--purge", copy).returncode == 0
    assert Seen.of(copy).sha256 == before.sha256


@pytest.mark.slow
def test_a_copy_whose_original_was_restored_before_the_copy_was_made(server: HomeServer) -> None:
    """It is taken from the file that is this original again."""
    [(first, before)] = _compressed(server, "a.safetensors")
    away = server.top / "a copy elsewhere"
    shutil.copyfile(first, away)
    assert server.lensd("restore", first).returncode == 0
    copy = server.loras / "b.safetensors"
    away.rename(copy)
    done = server.lensd("restore", copy)
    assert done.returncode == 0, done.stderr
    assert Seen.of(first).sha256 == Seen.of(copy).sha256 == before.sha256


@pytest.mark.slow
@pytest.mark.parametrize("everything", [False, True])
def test_a_file_that_was_moved_onto_another(server: HomeServer, *, everything: bool) -> None:
    """While no lensd ran: the original of the file that is there comes back, named twice or not."""
    (first, original), (second, replaced) = _compressed(server, "a.safetensors", "b.safetensors")
    first.rename(second)
    done = server.lensd("restore", first)
    assert (done.returncode, f"{first} is {second} now" in done.stderr) == (2, True)
    done = server.lensd("restore", *(["--all"] if everything else [server.loras, second]))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("restored ") == 1
    assert not first.exists()
    assert Seen.of(second).sha256 == original.sha256
    second.unlink()
    done = server.lensd("restore", second, "--version", replaced.sha256)
    assert done.returncode == 0, done.stderr
    assert Seen.of(second).sha256 == replaced.sha256


@pytest.mark.slow
def test_a_deleted_output_with_a_newer_row(server: HomeServer) -> None:
    """The last redo was refused, or a copy lay there: what was compressed last comes back."""
    files = _compressed(server, "redone.safetensors", "copied over.safetensors")
    (redone, _), (copied, _) = files
    server.configure(defaults={"max_error": 0.001})
    [line] = [line for line in server.once("--redo", redone) if line["event"] == "file.kept"]
    assert line["reason"] == "max_error"
    shutil.copyfile(redone, copied)
    server.once()
    for path, before in files:
        path.unlink()
        done = server.lensd("restore", path)
        assert done.returncode == 0, done.stderr
        assert Seen.of(path).sha256 == before.sha256


def test_a_file_that_is_its_original(server: HomeServer) -> None:
    """A user copied it back by hand; it stays as it is."""
    [(path, _)] = _compressed(server, "a.safetensors")
    shutil.copy2(server.archived(path), path)
    done = server.lensd("restore", path)
    assert done.returncode == 1
    assert "is its original already" in done.stderr


@pytest.mark.slow
def test_an_output_of_another_lensd(server: HomeServer, tmp_path: Path) -> None:
    """It stays, also where a version is named; the messages do not call it edited."""
    [(path, before)] = _compressed(server, "a.safetensors")
    (tmp_path / "other").mkdir()
    other = HomeServer(tmp_path / "other")
    [(theirs, _)] = _compressed(other, "unused.safetensors", "theirs.safetensors")[1:]
    shutil.copyfile(theirs, path)
    output = Seen.of(path)
    done = server.lensd("restore", path)
    assert (done.returncode, "the archive does not have" in done.stderr) == (2, True)
    done = server.lensd("restore", path, "--version", before.sha256)
    assert (done.returncode, "the ledger does not know" in done.stderr) == (1, True)
    assert Seen.of(path) == output


@pytest.mark.slow
@pytest.mark.parametrize("name", ["b.safetensors", "sub/a.safetensors"])
def test_a_copy_over_another_output_and_the_ledger_lost(server: HomeServer, name: str) -> None:
    """Both originals have the same size; that under the copy's name is not its own."""
    first = server.drop("a.safetensors", seed=1).path
    other = server.drop(name, seed=7).path
    originals = {path: Seen.of(path).sha256 for path in (first, other)}
    server.once()
    shutil.copyfile(first, other)
    for path in server.state.glob("ledger*"):
        path.unlink()
    server.once()
    done = server.lensd("restore", other)
    assert done.returncode == 0, done.stderr
    assert Seen.of(other).sha256 == originals[first]
    archived = [Seen.of(p).sha256 for p in server.archive.rglob("*.safetensors")]
    assert set(originals.values()) <= set(archived)
    assert server.lensd("restore", first).returncode == 0
    assert Seen.of(first).sha256 == originals[first]


@pytest.mark.slow
def test_a_copy_over_an_output_that_came_after_the_ledger_was_lost(server: HomeServer) -> None:
    """The ledger has the hash of the output that was there, but not that of the copy."""
    first = server.drop("a.safetensors", seed=1).path
    before = Seen.of(first)
    server.once()
    for path in server.state.glob("ledger*"):
        path.unlink()
    other = server.drop("b.safetensors", seed=2).path
    replaced = Seen.of(other)
    server.once()
    copy = Seen.of(Path(shutil.copyfile(first, other)))
    done = server.lensd("restore", other)
    assert done.returncode == 0, done.stderr
    assert Seen.of(other).sha256 == before.sha256
    [rescued] = (server.archive / "rescued").rglob("*.safetensors")
    assert Seen.of(rescued).sha256 == copy.sha256
    assert Seen.of(server.archived(other)).sha256 == replaced.sha256


@pytest.mark.slow
def test_a_version_over_an_output_whose_original_was_pruned(server: HomeServer) -> None:
    """Nothing can make that output again, so a copy of it is kept."""
    [(path, oldest)] = _compressed(server, "a.safetensors")
    shutil.copyfile(path, server.loras / "copy.safetensors")  # keeps the older original
    server.drop("a.safetensors", seed=7)
    server.once()
    output = Seen.of(path).sha256
    assert "1 original deleted" in server.lensd("prune", path).stderr
    done = server.lensd("restore", path, "--version", oldest.sha256)
    assert done.returncode == 0, done.stderr
    assert "file.rescued" in done.stderr
    assert Seen.of(path).sha256 == oldest.sha256
    [kept] = [p for p in (server.archive / "rescued").rglob("*") if p.is_file()]
    assert Seen.of(kept).sha256 == output


@pytest.mark.parametrize("is_there", [True, False])
def test_a_name_as_messages_show_it(server: HomeServer, *, is_there: bool) -> None:
    """Line breaks, other control characters and bytes that are not UTF-8, which none can type."""
    names = {os.fsdecode(b"a\nb\xe9.safetensors"), "c\x85\u202e.safetensors", "d\\xe9.safetensors"}
    before = dict(_compressed(server, *names))
    if not is_there:
        for path in before:
            path.unlink()
    for shown in (r"a\nb\xe9", r"c\x85\u202e", r"d\xe9"):
        done = server.lensd("restore", f"{server.loras}/{shown}.safetensors")
        assert done.returncode == 0, done.stderr
    assert all(_is_back(path, seen) for path, seen in before.items())
    again = server.lensd("once", "--dry-run", "--redo", r"loras/a\nb\xe9.safetensors")
    assert "1 file" in again.stdout


def test_all_and_paths(files: Files) -> None:
    """One of them is a mistake: no file is restored."""
    server, path, _ = files.take("one")
    output = Seen.of(path)
    done = server.lensd("restore", "--all", path)
    assert done.returncode == 2
    assert "not both" in done.stderr
    assert output == Seen.of(path)


def test_a_file_that_is_the_original_itself(server: HomeServer) -> None:
    """Restored before, or never compressed: the message does not call the original missing."""
    (server.loras / "page.safetensors").write_text("<html></html>")
    [(path, before)] = _compressed(server, "style.safetensors")
    assert server.lensd("restore", path).returncode == 0
    done = server.lensd("restore", path)
    assert (done.returncode, before) == (2, Seen.of(path))
    assert "is the original itself, since lensd restored it" in done.stderr
    done = server.lensd("restore", server.loras / "page.safetensors")
    assert "is the original itself, since lensd has not compressed it" in done.stderr
    path.write_bytes(b"edited")
    assert "the archive has no original of" in server.lensd("restore", path).stderr
