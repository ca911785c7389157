"""`lensd once`, as a person or cron starts it."""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.lora import making
from tests.support import delta
from tests.support.home_server import UNPROVEN, HomeServer, Seen
from tests.support.limits import PATIENCE


@pytest.fixture
def server(tmp_path: Path) -> HomeServer:
    return HomeServer(tmp_path)


def test_a_dry_run_prints_the_plan_and_changes_nothing(server: HomeServer) -> None:
    """Per folder: files, bytes now and later, archive and time. No state folder is created."""
    files = [server.drop(f"{n}.safetensors", seed=n).path for n in range(2)]
    (server.loras / "page.safetensors").write_text("<html>no LoRA</html>")
    before = [Seen.of(path) for path in files]
    done = server.lensd("once", "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    pattern = (
        r"loras: 2 files, (\S+) kB now, about \S+ to (\S+) kB in mode ultra; the archive needs 0 B "
    )
    said = re.search(pattern, done.stdout)
    assert said, done.stdout
    assert float(said[1]) == pytest.approx(sum(b.size for b in before) / 1000, abs=0.1)
    assert 0 < float(said[2]) < float(said[1])
    assert before == [Seen.of(path) for path in files]
    assert not server.state.exists()
    assert [] == list(server.archive.iterdir())


def test_once_processes_every_file_once(server: HomeServer) -> None:
    """A second run processes no file, and its plan says so."""
    files = [server.drop(f"{n}.safetensors", seed=n).path for n in range(3)]
    lines = server.once()
    done = [line["path"] for line in lines if line["event"] == "file.compressed"]
    assert sorted(map(str, files)) == sorted(done)
    assert not [line for line in server.once() if line["event"].startswith("file.")]
    assert "nothing to do" in server.lensd("once", "--dry-run").stdout
    assert [] == server.temporaries()


@pytest.mark.slow
def test_incomplete_files_are_reported_and_stay(server: HomeServer) -> None:
    """An open writer or a partner file: one line with the reason. Other files are compressed."""
    good = server.drop("good.safetensors", seed=1).path
    partner = server.drop("download.safetensors", seed=2).path
    Path(f"{partner}.part").touch()
    written = server.drop("open.safetensors", seed=3).path
    with written.open("r+b"):
        lines = server.once()
    ends = {line["path"]: line.get("reason") for line in lines if line["event"] == "file.skipped"}
    assert ends == {str(partner): "not_whole_yet", str(written): "not_whole_yet"}
    assert str(good) in [line["path"] for line in lines if line["event"] == "file.compressed"]
    Path(f"{partner}.part").unlink()
    again = [line["path"] for line in server.once() if line["event"] == "file.compressed"]
    assert sorted(again) == sorted(map(str, (partner, written)))


@pytest.mark.slow
def test_once_waits_for_files_that_may_be_complete(server: HomeServer) -> None:
    """The same run compresses a file that ends in zeros. It does not wait for a truncated one."""
    good = server.drop("good.safetensors", seed=1).path
    zeros = server.make("zeros.safetensors", seed=2).path
    data = zeros.read_bytes()
    zeros.write_bytes(data[:-9000] + bytes(9000))
    server.move_in(zeros)
    cut = server.loras / "cut.safetensors"
    cut.write_bytes(data[:-1])
    lines = server.once()
    done = {line["path"]: line for line in lines if line["event"] == "file.compressed"}
    assert set(done) == {str(good), str(server.loras / zeros.name)}
    waits = [done[str(server.loras / p.name)]["seconds"]["wait"] for p in (good, zeros)]
    assert waits == sorted(waits)
    assert waits[1] >= UNPROVEN
    [skipped] = [line for line in lines if line["event"] == "file.skipped"]
    assert (skipped["path"], skipped["reason"]) == (str(cut), "not_whole_yet")
    server.configure(settle={"unproven_seconds": 3600})
    began = time.monotonic()
    [skipped] = [line for line in server.once() if line["event"] == "file.skipped"]
    assert (skipped["path"], skipped["reason"]) == (str(cut), "not_whole_yet")
    assert time.monotonic() - began < PATIENCE


@pytest.mark.slow
def test_a_path_limits_it(server: HomeServer) -> None:
    """Only the named file and folder are compressed. A path elsewhere is a usage error."""
    for relative in ("a.safetensors", "sub/b.safetensors", "other/c.safetensors"):
        server.drop(relative, seed=1)
    lines = server.once(server.loras / "a.safetensors", server.loras / "sub")
    done = {line["path"] for line in lines if line["event"] == "file.compressed"}
    assert done == {str(server.loras / p) for p in ("a.safetensors", "sub/b.safetensors")}
    outside = server.make("outside.safetensors", seed=1).path
    for wrong, says in (
        (outside, "in no watched folder"),
        (server.loras / "none", "does not exist"),
    ):
        result = server.lensd("once", wrong)
        assert (result.returncode, result.stdout) == (2, "")
        assert says in result.stderr


def test_a_failed_file_ends_it_with_1(server: HomeServer) -> None:
    """One file has NaN weights; the other file is compressed."""
    bad = server.drop("bad.safetensors", seed=1).path
    data = bytearray(bad.read_bytes())
    data[-2:] = b"\xff\x7f"  # a float16 NaN
    bad.write_bytes(data)
    server.drop("good.safetensors", seed=2)
    lines = server.once(code=1)
    ends = {
        line["event"]: line.get("reason") for line in lines if line["event"].startswith("file.")
    }
    assert ends["file.failed"] == "not_finite"
    assert "file.compressed" in ends


@pytest.mark.slow
def test_redo_starts_from_the_original(server: HomeServer) -> None:
    """New settings apply to a compressed file without a second loss."""
    made = server.drop("style.safetensors", seed=1)
    original = Seen.of(made.path)
    server.once()
    smaller = Seen.of(made.path)
    server.configure(defaults={"mode": "rank", "energy": 0.999})
    assert not [line for line in server.once() if line["event"].startswith("file.")]
    [line] = [line for line in server.once("--redo") if line["event"] == "file.compressed"]
    assert (line["mode"], line["sha256_in"]) == ("rank", original.sha256)
    assert Seen.of(made.path).size > smaller.size
    error = delta.relative_error(made.deltas, delta.deltas(made.path))
    assert error < 0.035
    assert line["delta_error"] == pytest.approx(error, rel=1e-3)
    archived = Seen.of(server.archived(made.path))
    assert archived.sha256 == original.sha256
    assert server.lensd("restore", made.path).returncode == 0
    assert Seen.of(made.path) == original._replace(inode=Seen.of(made.path).inode)


@pytest.mark.slow
def test_redo_of_an_output_with_another_date(server: HomeServer) -> None:
    """Whether lensd has looked since or not. One that was edited as well stays, with a reason."""
    touched, seen, edited = (server.drop(f"{n}.safetensors", seed=n).path for n in range(3))
    server.once()
    os.utime(seen)
    server.once()
    os.utime(touched)
    with edited.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\1")
    server.configure(defaults={"mode": "rank", "energy": 0.9})
    ends = {line["path"]: line["event"] for line in server.once("--redo") if "job_id" in line}
    assert ends == {
        str(touched): "file.compressed",
        str(seen): "file.compressed",
        str(edited): "file.skipped",
    }


@pytest.mark.slow
def test_redo_that_cannot_help_may_be_tried_again(server: HomeServer) -> None:
    """If the new result is above `max_error`, the output stays; another redo tries again."""
    path = server.drop("style.safetensors", seed=1).path
    server.once()
    before = Seen.of(path)
    server.configure(defaults={"max_error": 0.0001})
    ends = [line["event"] for line in server.once("--redo") if "reason" in line]
    assert "file.kept" in ends
    assert before == Seen.of(path)
    server.configure(defaults={"energy": 0.9})
    assert "file.compressed" in [line["event"] for line in server.once("--redo")]
    assert Seen.of(path).size < before.size


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["rank", "int8", "ultra"])
def test_a_saving_below_5_percent_keeps_the_file(server: HomeServer, mode: str) -> None:
    """`once` keeps the original, and `--redo` the output: the new one saves too little."""
    path = server.drop("style.safetensors", seed=1).path
    save_file(load_file(path) | making.ballast(), path)
    server.configure(defaults={"mode": mode})
    before = Seen.of(path)
    assert "no_gain" in [line.get("reason") for line in server.once()]
    assert before == Seen.of(path)
    server.configure(defaults={"mode": mode, "min_saving": 0.0})
    assert "file.compressed" in [line["event"] for line in server.once("--redo", path)]
    output = Seen.of(path)
    assert output.sha256 != before.sha256
    server.configure(defaults={"mode": mode, "energy": 0.98})
    assert "no_gain" in [line.get("reason") for line in server.once("--redo", path)]
    assert output == Seen.of(path)


@pytest.mark.slow
def test_redo_without_an_archived_original_fails_that_file_only(server: HomeServer) -> None:
    """The original was deleted: the output stays, and the next file is compressed."""
    lost, kept = (server.drop(f"{n}.safetensors", seed=1).path for n in ("a", "b"))
    server.once()
    before = Seen.of(lost)
    server.archived(lost).unlink()
    server.configure(defaults={"energy": 0.9})
    lines = server.once("--redo", code=1)
    assert [str(lost)] == [line["path"] for line in lines if line["event"] == "file.failed"]
    assert [str(kept)] == [line["path"] for line in lines if line["event"] == "file.compressed"]
    assert before == Seen.of(lost)


@pytest.mark.slow
def test_redo_from_a_damaged_original_changes_nothing(server: HomeServer) -> None:
    """The original lost a bit on the disk: the file fails and the output stays."""
    path = server.drop("style.safetensors", seed=1).path
    server.once()
    before = Seen.of(path)
    archived = server.archived(path)
    data = bytearray(archived.read_bytes())
    data[-1] ^= 1
    archived.write_bytes(data)
    server.configure(defaults={"energy": 0.9})
    [line] = [line for line in server.once("--redo", code=1) if line["event"] == "file.failed"]
    assert line["reason"] == "io_error"
    assert "backup" in line["message"]
    assert before == Seen.of(path)
    assert server.temporaries() == []


@pytest.mark.slow
def test_an_archive_that_is_missing_is_away(server: HomeServer) -> None:
    """It was moved, say to a larger disk: no new one is made, and no original counts as deleted."""
    path = server.drop("style.safetensors", seed=1).path
    server.once()
    original = Seen.of(server.archived(path))
    before = server.status()["totals"]
    away = server.archive.rename(server.top / "away")
    new = server.drop("new.safetensors", seed=2)
    done = server.lensd("once", "--yes")
    assert done.returncode == 5
    assert "mkdir -p" in done.stderr
    assert not server.archive.exists()
    with server.daemon() as daemon:
        degraded = daemon.wait_for_event("daemon.degraded")
        assert str(server.archive) == degraded["path"]
        away.rename(server.archive)
        assert daemon.wait_for_file(new.path)["event"] == "file.compressed"
        assert {"daemon.recovered"} <= {line["event"] for line in daemon.lines}
    assert "file.deleted" not in {line["event"] for line in daemon.lines}
    totals = server.status()["totals"]
    assert totals["held_by_archive"] > before["held_by_archive"]
    assert original == Seen.of(server.archived(path))


def test_an_archive_that_a_person_deleted(server: HomeServer) -> None:
    """With an empty folder in its place, as the message says, lensd goes on."""
    server.drop("style.safetensors", seed=1)
    server.once()
    shutil.rmtree(server.archive)
    server.archive.mkdir()
    new = server.drop("new.safetensors", seed=2)
    assert "file.compressed" in {line["event"] for line in server.once()}
    assert server.archived(new.path).exists()
