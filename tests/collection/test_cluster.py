"""`lensd batch --cluster`: objects of a real S3 endpoint on a real Dask cluster."""

from __future__ import annotations

import random
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.collection.conftest import Batch, files_of
from tests.support.certificates import make_certificates
from tests.support.dask_cluster import DaskCluster, kill_all
from tests.support.home_server import wait_until
from tests.support.realistic import small_lora
from tests.support.stores import S3

pytestmark = pytest.mark.slow


class _Said:
    """What `lensd batch` says, line by line; `text` and its exit code `code` at its end."""

    def __init__(self, batch: Batch, command: list[str]) -> None:
        self._batch, self._command = batch, command
        self.text, self.code = "", -1

    def __iter__(self) -> Iterator[str]:
        with subprocess.Popen(
            self._command,
            cwd=self._batch.folder,
            env=self._batch.whole_env,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            for line in process.stderr:
                self.text += line
                yield line
        self.code = process.returncode


def test_the_same_bytes_on_a_cluster_whose_worker_is_killed(batch: Batch, s3: S3) -> None:
    """With TLS. Each object has one row, and the object of a run on this machine."""
    source = batch.folder / "source"
    source.mkdir()
    for seed in range(12):
        content = small_lora(source / f"{seed}.safetensors", seed=seed).path.read_bytes()
        s3.put(f"cluster/in/{seed}.safetensors", content)
    batch.run("source", "expected")
    on_s3 = batch._replace(env=s3.env)
    tls = make_certificates(batch.folder / "tls")
    cluster = DaskCluster(
        batch.folder / "dask", ((), ()), options=tls.options, protocol="tls", env=s3.env
    )
    with cluster:
        command = batch.command(
            "s3://hub/cluster/in", "s3://hub/cluster/out", "--manifest", "m.jsonl",
            "--cluster", cluster.address, "--cluster-tls", *tls,
        )  # fmt: skip
        for line in (said := _Said(on_s3, command)):
            if "dashboard" in line:
                cluster.kill_a_worker(random.Random(1))  # noqa: S311  not for secrets
        assert said.code == 0, said.text
        assert "12 compressed" in said.text
    found = {name: s3.get(f"cluster/out/{name}") for name in files_of(batch.folder / "expected")}
    assert files_of(batch.folder / "expected") == found
    assert len(on_s3.rows("m.jsonl")) == 12


def test_a_scheduler_that_goes_away_ends_the_run_with_one_message(batch: Batch, s3: S3) -> None:
    """Without the tracebacks of Dask. The same command continues."""
    for seed in range(12):
        content = small_lora(batch.folder / "one", seed=seed).path.read_bytes()
        s3.put(f"away/in/{seed}.safetensors", content)
    on_s3 = batch._replace(env=s3.env)
    with DaskCluster(batch.folder / "dask", env=s3.env) as cluster:
        arguments = ("s3://hub/away/in", "s3://hub/away/out", "--cluster", cluster.address)
        for line in (said := _Said(on_s3, batch.command(*arguments))):
            if "dashboard" in line:
                cluster.kill_scheduler()
        assert said.code == 5, said.text
        assert len(said.text.splitlines()) == 3, said.text
        assert "went away; run the same command again" in said.text
        before = cluster.registered()
        cluster.start_scheduler()
        wait_until(lambda: cluster.registered() > before, "a worker")
        on_s3.run(*arguments)
    assert len(on_s3.rows()) == 12


def test_a_cluster_that_loses_all_workers_is_reported(batch: Batch, s3: S3) -> None:
    """The run waits for another worker, and goes on."""
    content = small_lora(batch.folder / "one").path.read_bytes()
    for number in range(40):
        s3.put(f"lost/in/{number}.safetensors", content)
    on_s3 = batch._replace(env=s3.env)
    with DaskCluster(batch.folder / "dask", (), env=s3.env) as cluster:
        worker = cluster.start_worker(1)
        wait_until(lambda: cluster.registered() == 1, "a worker")
        command = batch.command("s3://hub/lost/in", "s3://hub/o", "--cluster", cluster.address)
        for line in (said := _Said(on_s3, command)):
            if "dashboard" in line:
                kill_all(worker.pid)
                worker.wait()
            if "no workers any more" in line:
                cluster.start_worker(2)
        assert said.code == 0, said.text
        assert said.text.count("no workers any more; the run waits for one") == 1
        assert "40 compressed" in said.text


def test_something_else_than_a_scheduler(batch: Batch, s3: S3) -> None:
    """It accepts connections and says nothing. The run ends, and names the likely mistake."""
    on_s3 = batch._replace(env=s3.env)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        said = on_s3.run("s3://hub/none", "s3://hub/o", "--cluster", address, code=5)
    assert f"{address} does not answer as a scheduler of Dask; check that its port" in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["a", "s3://hub/b", "--cluster", "tcp://127.0.0.1:1"], "may have other folders"),
        (["s3://hub/a", "s3://hub/b", "--cluster", "tls://127.0.0.1:1"], "go together"),
        (["s3://hub/a", "s3://hub/b", "--cluster", "tcp://192.0.2.1:1"], "not encrypted"),
    ],
)
def test_what_a_cluster_does_not_do(
    batch: Batch, tmp_path: Path, arguments: list[str], says: str
) -> None:
    """Exit code 2, before anything is read."""
    assert says in batch._replace(folder=tmp_path).run(*arguments, code=2)
