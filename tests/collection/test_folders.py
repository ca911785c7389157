"""`lensd batch` from a folder to a folder: what is done, what is left, what is never touched."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from lensd.collection.folder import text_of_time
from lensd.collection.run import work_folder
from lensd.errors import LockedError
from lensd.text import size
from tests.collection.conftest import Batch, files_of
from tests.lora import making
from tests.support import marks
from tests.support.archive_disks import ArchiveMounts
from tests.support.home_server import Seen
from tests.support.realistic import small_lora

pytestmark = pytest.mark.lengthy


def test_a_second_run_does_only_what_is_new_or_changed(batch: Batch, source: Path) -> None:
    """DEST mirrors SOURCE, which does not change. A changed original gets a new output."""
    run = functools.partial(batch.run, "source", "dest", "--processes", 1)
    before = {path: Seen.of(path) for path in source.rglob("*.safetensors")}
    assert "3 compressed" in run()
    dest = batch.folder / "dest"
    first = {path: Seen.of(path) for path in dest.rglob("*") if path.is_file()}
    assert set(files_of(source)) == set(files_of(dest))
    assert "nothing is new or changed" in run()
    small_lora(source / "more/b.safetensors", seed=9, rank=8)
    small_lora(source / "new.safetensors", seed=10)
    assert "2 compressed" in run()
    changed = dest / "more/b.safetensors"
    assert first.pop(changed).sha256 != Seen.of(changed).sha256
    assert first == {path: Seen.of(path) for path in first}
    del before[source / "more/b.safetensors"]
    assert before == {path: Seen.of(path) for path in before}
    rows = batch.rows()
    assert {"a", "b", "c", "new"} == {name.partition(".")[0] for name in rows}
    assert rows["b.safetensors"]["sha256_out"] == Seen.of(changed).sha256
    assert {"source", "dest", "lensd-manifest.jsonl"} == set(os.listdir(batch.folder))


@pytest.mark.slow
def test_other_settings_make_other_outputs(batch: Batch, source: Path) -> None:
    """The outputs of the first run are replaced: the manifest knows them."""
    batch.run("source", "dest", "--mode", "rank")
    before = files_of(batch.folder / "dest")
    assert "3 compressed" in batch.run("source", "dest", "--mode", "int8")
    after = files_of(batch.folder / "dest")
    assert not set(before.values()) & set(after.values())
    assert len(files_of(source)) == len(after)


@pytest.mark.slow
def test_another_file_in_the_destination_stays(batch: Batch, source: Path) -> None:
    """Its object fails, the others do not. --force replaces it. The same bytes are accepted."""
    batch.run("source", "dest")
    dest = batch.folder / "dest"
    outputs = files_of(dest)
    mine = dest / "a.safetensors"
    mine.write_bytes(b"mine")
    (batch.folder / "lensd-manifest.jsonl").unlink()
    said = batch.run("source", "dest", code=1)
    assert "destination_taken" in said
    assert "--force" in said
    assert mine.read_bytes() == b"mine"
    reasons = {name: row.get("reason") for name, row in batch.rows().items()}
    assert reasons == {"a.safetensors": "destination_taken", "b.safetensors": None} | {
        "c.safetensors": None
    }
    assert "1 compressed" in batch.run("source", "dest", "--force")
    assert outputs == files_of(dest)
    assert len(files_of(source)) == len(outputs)


@pytest.mark.slow
def test_a_failed_object_is_tried_again_by_the_next_run(batch: Batch, source: Path) -> None:
    """Here a file has the name of a folder of DEST. Each failure has a line, and the exit code
    is 1.
    """
    (batch.folder / "dest").mkdir()
    (batch.folder / "dest/more").write_text("mine")
    said = batch.run("source", "dest", code=1)
    assert said.count("destination_taken") == 2
    assert "1 compressed, 2 failed" in said
    assert (batch.folder / "dest/more").read_text() == "mine"
    (batch.folder / "dest/more").unlink()
    assert "2 compressed" in batch.run("source", "dest")
    assert set(files_of(source)) == set(files_of(batch.folder / "dest"))


@pytest.mark.slow
def test_loras_that_stay_as_they_are_are_copied(batch: Batch, source: Path) -> None:
    """So that DEST is a mirror; --only-smaller leaves them out. What is no LoRA is left out."""
    kept = source / "kept.safetensors"
    save_file(load_file(source / "a.safetensors") | making.ballast(), kept)
    (source / "page.safetensors").write_text("<html>Please log in")
    (source / "notes.txt").write_text("of no concern")
    batch.run("source", "dest")
    assert kept.read_bytes() == (batch.folder / "dest/kept.safetensors").read_bytes()
    row = batch.rows()["kept.safetensors"]
    assert (row["outcome"], row["reason"], row["copied"]) == ("kept", "no_gain", True)
    page = batch.rows()["page.safetensors"]
    assert (page["outcome"], page["reason"]) == ("skipped", "not_safetensors")
    assert "watched folder" not in page["message"]
    assert not {"page.safetensors", "notes.txt"} & set(files_of(batch.folder / "dest"))
    batch.run("source", "smaller", "--only-smaller")
    assert not (batch.folder / "smaller/kept.safetensors").exists()
    assert (batch.folder / "smaller/a.safetensors").exists()


@pytest.mark.slow
def test_hostile_names(batch: Batch, source: Path) -> None:
    """Any bytes that a filesystem takes; two names whose printable forms are the same."""
    names = [b"new\nline", b"\xff", b"\\xff", b"--help", b" ", b"*?[a]", "\u202egnp".encode()]
    original = (source / "a.safetensors").read_bytes()
    shutil.rmtree(source)
    source.mkdir()
    for name in names:
        path = os.path.join(os.fsencode(source), name + b".safetensors")
        Path(os.fsdecode(path)).write_bytes(original)
    said = batch.run("source", "dest", "--manifest", "m.jsonl")
    assert "7 compressed" in said
    found = {os.fsencode(name) for name in os.listdir(batch.folder / "dest")}
    assert {name + b".safetensors" for name in names} == found
    (batch.folder / "m.jsonl").read_text(encoding="ascii")


@pytest.mark.slow
def test_links_are_read_and_never_written_through(batch: Batch, source: Path) -> None:
    """A link to a file is an object; one to a folder is not entered; a dead one is left out.

    What is no file is left out. A link in DEST counts as another file.
    """
    (source / "link.safetensors").symlink_to(source / "a.safetensors")
    (source / "dead.safetensors").symlink_to(source / "none")
    (source / "loop").symlink_to(source)
    (source / "folder.safetensors").mkdir()
    os.mkfifo(source / "pipe.safetensors")
    target = batch.folder / "target"
    target.write_bytes(b"mine")
    (batch.folder / "dest").mkdir()
    (batch.folder / "dest/a.safetensors").symlink_to(target)
    batch.run("source", "dest", code=1)
    assert {"a", "b", "c", "link"} == {name.partition(".")[0] for name in batch.rows()}
    assert target.read_bytes() == b"mine"


@pytest.mark.slow
def test_one_odd_file_does_not_end_the_run(batch: Batch, source: Path) -> None:
    """A link to itself is left out. A time is any that the filesystem can keep."""
    (source / "itself.safetensors").symlink_to("itself.safetensors")
    os.utime(source / "a.safetensors", (0, 10**12))
    run = functools.partial(batch.run, "source", "dest")
    assert "3 compressed" in run()
    assert "nothing is new or changed" in run()


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "1970-01-01T00:00:00+00:00"),
        (-1, "1969-12-31T23:59:59.999999+00:00"),
        (1_234_567_890_123_456_789, "2009-02-13T23:31:30.123456+00:00"),
        (10**12 * 10**9, "@1000000000000.000000"),
        (-(2**63) * 10**9, "@-9223372036854775808.000000"),
    ],
)
def test_times_that_filesystems_keep(nanoseconds: int, text: str) -> None:
    """Different ones have different texts, also where ISO 8601 has none."""
    assert text_of_time(nanoseconds) == text


@pytest.mark.slow
@marks.needs_root
def test_a_folder_that_cannot_be_read_is_named(batch: Batch, source: Path) -> None:
    """Its objects are in no row, and the exit code is 1; the others are done."""
    (source / "more").chmod(0)
    done = subprocess.run(
        [*marks.WITHOUT_OVERRIDE, *batch.command("source", "dest")],
        cwd=batch.folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    (source / "more").chmod(0o700)
    assert done.returncode == 1
    assert f"{source}/more/ cannot be read: Permission denied" in done.stderr
    assert {"a.safetensors"} == set(batch.rows())
    assert "2 compressed" in batch.run("source", "dest")


@pytest.mark.slow
@marks.needs_root
def test_a_folder_of_the_destination_that_takes_no_files(batch: Batch, source: Path) -> None:
    """More files than end a run fail, each with a remedy; the others are done."""
    for folder in (source / "locked", source / "file"):
        folder.mkdir()
        for number in range(25):
            shutil.copyfile(source / "a.safetensors", folder / f"{number}.safetensors")
    dest = batch.folder / "dest"
    (dest / "locked").mkdir(parents=True)
    (dest / "locked").chmod(0o500)
    (dest / "file").write_text("no folder")
    done = subprocess.run(
        [*marks.WITHOUT_OVERRIDE, *batch.command("source", "dest")],
        cwd=batch.folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "3 compressed, 50 failed" in done.stderr
    lines = (batch.folder / "lensd-manifest.jsonl").read_text().splitlines()
    failed = [row for row in map(json.loads, lines) if row["outcome"] == "failed"]
    assert Counter((row["reason"], row["attempts"]) for row in failed) == {
        ("destination_denied", 1): 25, ("destination_taken", 1): 25,
    }  # fmt: skip
    assert f"lensd may not write to {dest}/locked" in str(failed)
    assert f"there can be no folder {dest}/file: {dest}/file is no folder; rename" in str(failed)
    (dest / "locked").chmod(0o700)
    assert "25 compressed, 25 failed" in batch.run("source", "dest", code=1)


@pytest.mark.slow
def test_what_is_no_file_in_the_destination_stays(batch: Batch, source: Path) -> None:
    """A pipe is not read, which would wait for its writer. A dead link is not tried again."""
    dest = batch.folder / "dest"
    (dest / "a.safetensors").mkdir(parents=True)
    (dest / "more").mkdir()
    os.mkfifo(dest / "more/b.safetensors")
    (dest / "more/c.safetensors").symlink_to("none")
    said = batch.run("source", "dest", code=1)
    assert said.count("destination_taken") == 3
    assert {row["attempts"] for row in batch.rows().values()} == {1}
    assert len(files_of(source)) == 3
    assert {} == files_of(dest)


def test_a_run_that_ends_while_another_begins(tmp_path: Path) -> None:
    """Each gets a folder of its own, which stays until its end, or says that there is a run."""
    path = str(tmp_path / "m.jsonl")

    def begin_often() -> int:
        begun = 0
        for _ in range(500):
            with suppress(LockedError), work_folder(path) as work:
                (Path(work) / "file").touch(exist_ok=False)
                begun += 1
        return begun

    with ThreadPoolExecutor(3) as threads:
        ends = [threads.submit(begin_often) for _ in range(3)]
    assert sum(end.result() for end in ends) > 0
    assert [] == list(tmp_path.iterdir())


def test_one_run_at_a_time(batch: Batch, source: Path) -> None:
    """A second run with the same manifest ends with exit code 6 and changes nothing."""
    assert len(files_of(source)) == 3
    with subprocess.Popen(
        batch.command("source", "dest"), cwd=batch.folder, stderr=subprocess.PIPE, text=True
    ) as first:
        assert first.stderr is not None
        first.stderr.readline()  # it has listed the source
        first.send_signal(signal.SIGSTOP)
        assert "another `lensd batch` uses the manifest" in batch.run("source", "dest", code=6)
        first.send_signal(signal.SIGCONT)
        first.terminate()
        first.communicate()


@pytest.mark.slow
def test_a_stop_by_a_signal_keeps_what_is_done(batch: Batch, source: Path) -> None:
    """The next run goes on, and nothing else stays."""
    with subprocess.Popen(
        batch.command("source", "dest"), cwd=batch.folder, stderr=subprocess.PIPE, text=True
    ) as first:
        assert first.stderr is not None
        first.stderr.readline()
        first.terminate()
        first.communicate()
        assert first.returncode == 143
    batch.run("source", "dest")
    assert len(batch.rows()) == 3
    assert set(files_of(source)) == set(files_of(batch.folder / "dest"))
    assert {"source", "dest", "lensd-manifest.jsonl"} == set(os.listdir(batch.folder))


@pytest.mark.slow
def test_a_dry_run_writes_nothing(batch: Batch, source: Path) -> None:
    """It says how small, how long, and with prices how much."""
    said = batch.run("source", "dest", "--dry-run", "--core-hour", "0.05", "--egress", "0.09")
    assert "files to do: 3" in said
    assert "times smaller" in said
    assert "cost per million files" in said
    assert {"source"} == set(os.listdir(batch.folder))
    (source / "page.safetensors").write_bytes(b"<html>" * 100_000)
    said = batch.run("source", "dest", "--dry-run")
    batch.run("source", "dest")
    written = sum(map(len, files_of(batch.folder / "dest").values()))
    assert f"-> {size(written)}, " in said
    assert "files to do: 0" in batch.run("source", "dest", "--dry-run")
    assert len(files_of(source)) == 4


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["source", "ftp://host/a"], "no address that lensd knows"),
        (["source", ""], "must not be empty"),
        (["source", "s3:///prefix"], "names no bucket"),
        (["source", "sftp:///folder"], "names no host"),
        (["source", "sftp://host:port/folder"], "sftp://HOST:PORT/FOLDER"),
        (["source", "source/more"], "must not lie in each other"),
        (["source", "dest", "--manifest", "m.txt"], "ends in .jsonl or .parquet"),
        (["source", "dest", "--device", "gpu"], "'gpu' is not a device; write auto, cpu, cuda"),
        (["source", "dest", "--energy", "2"], "--energy: 2.0 is out of range; write a value of at"),
        (["source", "dest", "--targets", "comfui,forge"], "did you mean `comfyui`?"),
        (["source", "dest", "--target-size", "3x"], "is not a size"),
        (["source", "dest", "--core-hour", "1"], "prices for --dry-run"),
        (["source", "dest", "--dry-run", "--egress", "nan"], "give numbers"),
        (["source", "dest", "--dry-run", "--egress", "-1"], "not in the range"),
        (["source", "dest", "--cluster-insecure"], "add --cluster"),
    ],
)
def test_what_makes_no_sense(batch: Batch, source: Path, arguments: list[str], says: str) -> None:
    """Exit code 2, before anything is read or written."""
    assert says in batch.run(*arguments, code=2)
    assert not (batch.folder / "dest").exists()
    assert source.exists()


@pytest.mark.slow
@pytest.mark.parametrize("destination", ["bound", "bound/out", "dest"])
def test_a_source_that_a_bind_mount_shows(batch: Batch, source: Path, destination: str) -> None:
    """--force would replace originals there."""
    before = files_of(source)
    with ArchiveMounts() as mounts:
        mounts.bind(source, batch.folder / "bound")
        mounts.bind(source / "more", batch.folder / "dest/more")
        said = batch.run("source", destination, "--force", code=2)
    assert "shows files of" in said
    assert files_of(source) == before


def test_a_source_that_is_not_there(batch: Batch) -> None:
    """Exit code 5; and the manifest of an earlier run stays as it is."""
    assert "cannot be read" in batch.run("none", "dest", code=5)


@pytest.mark.parametrize(
    ("destination", "says"), [("file", "is no folder"), ("file/small", "Not a directory")]
)
def test_a_destination_that_cannot_be_made(
    batch: Batch, source: Path, destination: str, says: str
) -> None:
    """It is noticed before any object is read."""
    (batch.folder / "file").touch()
    said = batch.run(source, destination, code=5)
    assert f"{batch.folder / destination} cannot take objects" in said
    assert says in said
    assert not (batch.folder / "lensd-manifest.jsonl").exists()


@pytest.mark.slow
def test_a_folder_needs_no_package_for_stores(batch: Batch, source: Path) -> None:
    """Without the extra `cloud` folders work, and s3:// names the package that is missing."""
    absent = "import sys; sys.modules.update(dict.fromkeys({}, None)); "
    run = "from lensd.cli import main; main(prog_name='lensd')"
    code = absent.format(("fsspec", "s3fs", "paramiko", "pyarrow")) + run
    for arguments, exit_code, says in (
        (["source", "dest"], 0, "3 compressed"),
        (["s3://hub/a", "dest"], 2, "pip install s3fs"),
        (["sftp://host/a", "dest"], 2, "pip install paramiko"),
        (["source", "dest", "--manifest", "m.parquet"], 2, "pip install pyarrow"),
    ):
        command = [sys.executable, "-c", code, "batch", *arguments]
        done = subprocess.run(
            command, cwd=batch.folder, capture_output=True, text=True, check=False
        )
        assert exit_code == done.returncode, done.stderr
        assert says in done.stderr
    assert len(files_of(source)) == 3
