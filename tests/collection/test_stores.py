"""`lensd batch` with real stores: an S3 endpoint over HTTP, and an SFTP server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections import Counter
from getpass import getuser
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from lensd.collection.sftp import Sftp
from lensd.store.fs import temporary_name
from tests.cli.conftest import run as run_lensd
from tests.collection.conftest import Batch, files_of
from tests.support import marks, stores
from tests.support.cutting_proxy import CuttingProxy
from tests.support.disks import tmpfs
from tests.support.home_server import HomeServer, wait_until
from tests.support.realistic import small_lora
from tests.support.stores import S3, SftpServer

pytestmark = pytest.mark.lengthy


def _upload(s3: S3, folder: Path, prefix: str) -> None:
    for name, content in files_of(folder).items():
        s3.put(f"{prefix}/{name}", content)


def _download(s3: S3, prefix: str) -> dict[str, bytes]:
    return {key.removeprefix(f"{prefix}/"): s3.get(key) for key in s3.keys(f"{prefix}/")}


@pytest.mark.slow
def test_a_bucket(batch: Batch, source: Path, s3: S3) -> None:
    """The same bytes as from a folder. A second run does what is new; ETags tell what changed."""
    on_s3 = batch._replace(env=s3.env)
    _upload(s3, source, "first/in")
    batch.run("source", "dest")
    on_s3.run("S3://hub/first/in", "s3://hub/first/out", "--manifest", "s3.jsonl")
    assert files_of(batch.folder / "dest") == _download(s3, "first/out")
    rows = on_s3.rows("s3.jsonl")
    assert all(row["source_etag"] for row in rows.values())
    s3.put("first/in/a.safetensors", (source / "a.safetensors").read_bytes())  # a later time
    s3.put("first/in/more/b.safetensors", (source / "a.safetensors").read_bytes())
    said = on_s3.run("s3://hub/first/in", "s3://hub/first/out", "--manifest", "s3.jsonl")
    assert "1 compressed" in said
    assert files_of(source) != _download(s3, "first/in")


def _has_unread(endpoint: str) -> bool:
    """Whether a server of this machine has received what it has not read."""
    port = f":{int(endpoint.rpartition(':')[2]):04X}"
    sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(s[1].endswith(port) and int(s[4].partition(":")[2], 16) for s in sockets)


@pytest.mark.slow
def test_a_store_that_hangs_does_not_hold_a_stop(
    batch: Batch, source: Path, tmp_path: Path
) -> None:
    """^C ends the run within seconds, and the same command continues."""
    (tmp_path / "server").mkdir()
    with stores.s3(tmp_path / "server") as s3:
        on_s3 = batch._replace(env=s3.env)
        _upload(s3, source, "in")
        content = (source / "a.safetensors").read_bytes()
        for number in range(30):  # so many that the run has not ended when the server stops
            s3.put(f"in/many/{number}.safetensors", content)
        [server] = [
            process
            for process in psutil.Process().children()
            if s3.endpoint.rpartition(":")[2] in process.cmdline()
        ]
        arguments = ("s3://hub/in", "dest", "--inflight", 1)
        journal = batch.folder / "lensd-manifest.jsonl.journal"
        with subprocess.Popen(
            batch.command(*arguments),
            cwd=batch.folder, env=on_s3.whole_env, stderr=subprocess.PIPE, text=True,
        ) as run:  # fmt: skip
            wait_until(lambda: journal.exists() and journal.read_bytes() != b"", "a row")
            server.suspend()
            wait_until(lambda: _has_unread(s3.endpoint), "a request without an answer")
            run.send_signal(signal.SIGINT)
            try:
                _, said = run.communicate(timeout=30)
            finally:
                server.resume()
        assert run.returncode == 130
        assert said.endswith("lensd: interrupted\n")
        assert "Traceback" not in said
        on_s3.run(*arguments)
    assert len(on_s3.rows()) == 33


@pytest.mark.slow
@stores.needs_sshd
def test_a_source_under_another_address_stays(batch: Batch, source: Path, sftp: SftpServer) -> None:
    """With or without the user, by a link, in a folder that is not there: DEST is refused."""
    folder = sftp.root / "taken"
    shutil.copytree(source, folder)
    (sftp.root / "link").symlink_to("taken")
    before = files_of(folder)
    home = batch._replace(env={"HOME": str(sftp.home)})
    bare = sftp.url.replace(f"{getuser()}@", "")
    for dest in (f"{bare}/taken", f"{sftp.url}/link", f"SFTP{bare[4:]}/link/new/deep"):
        said = home.run(f"{sftp.url}/taken", dest, "--force", "--mode", "rank", code=2)
        assert "must not lie in each other" in said
    assert "3 compressed" in home.run(f"{bare}/link", f"{sftp.url}/taken-small")
    assert before == files_of(folder)


@pytest.mark.slow
@stores.needs_sshd
def test_the_same_bytes_from_everywhere(
    batch: Batch, source: Path, s3: S3, sftp: SftpServer
) -> None:
    """From the daemon, `lensd compress`, and batches from and to a folder, S3 and SFTP."""
    expected = _by_the_daemon(batch.folder / "server", source)
    assert expected == {name: _by_compress(source / name) for name in files_of(source)}
    away = batch._replace(env={**s3.env, "HOME": str(sftp.home)})
    _upload(s3, source, "all/in")
    shutil.copytree(source, sftp.root / "all/in")
    for number, (a, b) in enumerate(
        [
            (source, f"{sftp.url}/all/out"),
            ("s3://hub/all/in", batch.folder / "from s3"),
            (f"{sftp.url}/all/in", "s3://hub/all/out"),
        ]
    ):
        away.run(a, b, "--manifest", f"{number}.jsonl", "--min-saving", "0")
    assert expected == files_of(sftp.root / "all/out")
    assert expected == files_of(batch.folder / "from s3")
    assert expected == _download(s3, "all/out")


def _by_the_daemon(folder: Path, source: Path) -> dict[str, bytes]:
    folder.mkdir()
    server = HomeServer(folder)
    server.configure(defaults={"min_saving": 0.0})
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        for name in files_of(source):
            copy = server.elsewhere / os.path.basename(name)
            shutil.copyfile(source / name, copy)
            daemon.wait_for_file(server.move_in(copy, name), "file.compressed")
    return files_of(server.loras)


def _by_compress(original: Path) -> bytes:
    arguments = ("compress", str(original), "-o", "out.safetensors", "--force", "--min-saving", "0")
    assert run_lensd(original.parents[2], *arguments).returncode == 0
    return (original.parents[2] / "out.safetensors").read_bytes()


@pytest.mark.slow
@stores.needs_sshd
def test_a_connection_that_breaks_in_the_middle_of_a_file(
    batch: Batch, source: Path, sftp: SftpServer
) -> None:
    """The file is read again, from the start."""
    shutil.copytree(source, sftp.root / "cut/in")
    away = batch._replace(env={"HOME": str(sftp.home)})
    with CuttingProxy(sftp.port, cuts=2, after=30_000) as proxy:
        away.run(f"{sftp.url_by(proxy.port)}/cut/in", "dest")
        assert proxy.left <= 0
    rows = away.rows()
    assert sum(row["attempts"] - 1 for row in rows.values()) == 2
    batch.run("source", "expected", "--manifest", "expected.jsonl")
    assert files_of(batch.folder / "expected") == files_of(batch.folder / "dest")


@pytest.mark.slow
@stores.needs_sshd
def test_an_sftp_server(batch: Batch, source: Path, sftp: SftpServer) -> None:
    """No temporary file stays; another file of the same name does; an unknown host is refused."""
    away = batch._replace(env={"HOME": str(sftp.home)})
    served = sftp.root / "server/out"
    served.mkdir(parents=True)
    (served / "a.safetensors").write_bytes(b"mine")
    said = away.run("source", f"{sftp.url}/server/out", code=1)
    assert "destination_taken" in said
    assert (served / "a.safetensors").read_bytes() == b"mine"
    assert set(files_of(source)) == set(files_of(served))
    away.run("source", f"{sftp.url}/server/out", "--force")
    assert (served / "a.safetensors").stat().st_size > 4
    assert set(files_of(source)) == set(files_of(served))
    (batch.folder / ".ssh").mkdir()
    shutil.copyfile(sftp.home / ".ssh/id_ed25519", batch.folder / ".ssh/id_ed25519")
    stranger = batch._replace(env={"HOME": str(batch.folder)})
    said = stranger.run(f"{sftp.url}/server/out", "dest", "--manifest", "m.jsonl", code=5)
    assert "not found in known_hosts" in said


@pytest.mark.slow
@stores.needs_sshd
def test_names_that_are_no_utf8(batch: Batch, source: Path, s3: S3, sftp: SftpServer) -> None:
    """An SFTP server has them as other names. A bucket cannot: the file fails at once."""
    odd = os.fsdecode(b"caf\xe9.safetensors")
    shutil.copyfile(source / "a.safetensors", source / odd)
    away = batch._replace(env={**s3.env, "HOME": str(sftp.home)})
    away.run("source", f"{sftp.url}/bytes/out", "--manifest", "1.jsonl")
    away.run(f"{sftp.url}/bytes/out", "back", "--manifest", "2.jsonl")
    assert files_of(batch.folder / "back") == files_of(sftp.root / "bytes/out")
    assert odd in files_of(batch.folder / "back")
    said = away.run("source", "s3://hub/bytes", "--manifest", "3.jsonl", code=1)
    assert "unusable_name" in said
    assert "3 compressed, 1 failed" in said
    assert {row["attempts"] for row in away.rows("3.jsonl").values()} == {1}


@pytest.mark.slow
@stores.needs_sshd
def test_an_sftp_server_that_denies_folders(batch: Batch, source: Path, sftp: SftpServer) -> None:
    """More files than end a run are denied, and the others are done nevertheless."""
    away = batch._replace(env={"HOME": str(sftp.home)})
    served, out = sftp.root / "denied/in", sftp.root / "denied/out"
    shutil.copytree(source, served)
    (served / "hidden").mkdir()
    (out / "locked").mkdir(parents=True)
    (out / "locked").chmod(0o500)
    (out / "a.safetensors-files").write_text("no folder")
    for folder in ("locked", "unreadable", "a.safetensors-files"):
        (served / folder).mkdir()
        for number in range(25):
            copy = served / folder / f"{number}.safetensors"
            shutil.copyfile(source / "a.safetensors", copy)
            copy.chmod(0 if folder == "unreadable" else 0o600)
    (served / "hidden").chmod(0)
    said = away.run(f"{sftp.url}/denied/in", f"{sftp.url}/denied/out", code=1)
    (served / "hidden").chmod(0o700)
    assert "3 compressed, 75 failed" in said
    assert f"{served}/hidden/ cannot be read: Permission denied" in said
    manifest = (batch.folder / "lensd-manifest.jsonl").read_text()
    rows = [json.loads(line) for line in manifest.splitlines()]
    assert Counter(row.get("reason") for row in rows) == {
        None: 3, "destination_denied": 25, "unreadable": 25, "destination_taken": 25,
    }  # fmt: skip
    assert f"lensd may not write to {sftp.url}/denied/out/locked" in manifest
    out.chmod(0o500)
    said = away.run("source", f"{sftp.url}/denied/out", "--manifest", "2.jsonl", code=5)
    out.chmod(0o700)
    assert f"lensd may not write to {out}" in said


@pytest.mark.slow
@stores.needs_sshd
@marks.needs_root
def test_a_full_sftp_server_keeps_no_part_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was sent of a file that does not fit is removed."""
    (tmp_path / "server").mkdir()
    (tmp_path / "large").write_bytes(bytes(2**20))
    with tmpfs(tmp_path / "disk", "64k") as disk, stores.sftp(tmp_path / "server") as server:
        monkeypatch.setenv("HOME", str(server.home))
        place = Sftp(f"{server.url.removesuffix(str(server.root))}{disk}/out")
        with pytest.raises(OSError, match="Failure"):
            place.publish("a.safetensors", str(tmp_path / "large"), "1" * 16, replace=False)
        assert [] == os.listdir(disk / "out")


@pytest.mark.slow
@stores.needs_sshd
@marks.needs_program("strace")
@pytest.mark.skipif(stores.SFTP_SERVER is None, reason="needs the program sftp-server")
@pytest.mark.parametrize("number", [1, 2, 7])
def test_a_write_of_an_sftp_server_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A file of the right size with a hole is not published: a full disk may have space again."""
    (tmp_path / "server").mkdir()
    (tmp_path / "file").write_bytes(os.urandom(7 * 2**15 - 5))
    token = "1" * 16
    temporary = tmp_path / "server/served" / temporary_name(token)
    fault = f"-P {temporary} -e trace=write -e inject=write:error=ENOSPC:when={number}"
    command = f"{shutil.which('strace')} -f -o {tmp_path}/trace {fault} {stores.SFTP_SERVER}"
    with stores.sftp(tmp_path / "server", command) as server:
        monkeypatch.setenv("HOME", str(server.home))
        place = Sftp(server.url)
        with pytest.raises(OSError, match="Failure"):
            place.publish("a.safetensors", str(tmp_path / "file"), token, replace=False)
        assert [] == os.listdir(server.root)
        place.publish("a.safetensors", str(tmp_path / "file"), token, replace=False)
        assert (server.root / "a.safetensors").read_bytes() == (tmp_path / "file").read_bytes()
    assert "INJECTED" in (tmp_path / "trace").read_text()


@pytest.mark.slow
def test_a_bucket_as_destination(batch: Batch, source: Path, s3: S3) -> None:
    """Another object of the same name stays. A large one comes in parts. A key that is no path,
    or has no bucket, fails.
    """
    on_s3 = batch._replace(env=s3.env)
    s3.put("taken/a.safetensors", b"mine")
    large = {"emb": torch.zeros(20 * 2**20, dtype=torch.float16)}
    save_file(load_file(source / "a.safetensors") | large, source / "large.safetensors")
    assert "destination_taken" in on_s3.run("source", "s3://hub/taken", code=1)
    found = _download(s3, "taken")
    assert found["a.safetensors"] == b"mine"
    assert found["large.safetensors"] == (source / "large.safetensors").read_bytes()
    assert s3.uploads() == []
    original = (source / "a.safetensors").read_bytes()
    hostile = ("../up", "a//b", "./c", "d/../e", "/f", f"{'g' * 300}", "h?versionId=i")
    for name in (*hostile, "good #%&+?é"):
        s3.put(f"hostile/{name}.safetensors", original)
    said = on_s3.run("s3://hub/hostile", "top/dest", "--manifest", "hostile.jsonl", code=1)
    assert f"1 compressed, {len(hostile)} failed" in said
    assert ["good #%&+?é.safetensors"] == os.listdir(batch.folder / "top/dest")
    assert ["dest"] == os.listdir(batch.folder / "top")
    said = on_s3.run("source", "s3://none/a", "--manifest", "none.jsonl", code=5)
    assert "the bucket none does not exist" in said
    said = on_s3.run("s3://none/a", "dest", "--manifest", "none.jsonl", code=5)
    assert "cannot be listed" in said


@pytest.mark.slow
def test_the_manifest_and_its_report(batch: Batch, source: Path) -> None:
    """Parquet and JSON lines have the same rows; `lensd report` reads both."""
    (source / "page.safetensors").write_text("<html>")
    small_lora(source / "peft.safetensors", naming="peft", alpha=None)
    batch.run("source", "dest", "--manifest", "m.parquet")
    batch.run("source", "dest", "--manifest", "m.jsonl")
    table = pq.read_table(batch.folder / "m.parquet")
    rows = {os.path.basename(row["path"]): row for row in table.to_pylist()}
    for name, row in batch.rows("m.jsonl").items():
        for field in ("outcome", "bytes_in", "bytes_out", "sha256_out", "source_size", "reason"):
            assert row.get(field) == rows[name][field]
    documents = [
        json.loads(run_lensd(batch.folder, "report", "--json", "--manifest", name).stdout)
        for name in ("m.parquet", "m.jsonl")
    ]
    assert documents[0]["source"] == {"kind": "manifest", "manifest": "m.parquet"}
    for document in documents:
        assert document["outcomes"] == {"compressed": 4, "skipped": 1}
        assert document["bytes"]["after"] == sum(row["bytes_out"] or 0 for row in rows.values())
    page = run_lensd(batch.folder, "report", "--html", "r.html", "--manifest", "m.parquet")
    assert page.returncode == 0
    assert "from the manifest m.parquet" in (batch.folder / "r.html").read_text()
    assert "no manifest" in run_lensd(batch.folder, "report", "--manifest", "none.jsonl").stderr
