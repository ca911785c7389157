"""The client process of a cluster: real requests over its pipe, to a real scheduler and workers."""

from __future__ import annotations

import hashlib
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import cloudpickle
import pytest
from distributed import Client as Dask
from msgspec import structs

from lensd import __version__
from lensd.errors import Reason
from lensd.lora.parameters import Parameters
from lensd.store.identity import Identity
from lensd.store.json_lines import decode, encode
from lensd.worker import isolated
from lensd.worker.cluster.messages import (
    Available,
    Checked,
    ClusterSettings,
    EngineLimits,
    FromClient,
    Happened,
    Lost,
    Submit,
    Tls,
    Unavailable,
)
from lensd.worker.request import (
    AnalyzeRequest,
    AnalyzeResult,
    CompressRequest,
    CompressResult,
    Refused,
)
from tests.support.certificates import make_certificates
from tests.support.dask_cluster import DaskCluster
from tests.support.home_server import wait_until
from tests.support.realistic import write_lora
from tests.support.requests import compress_small_lora

pytestmark = pytest.mark.slow
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the scheduler cannot import it
Wanted = TypeVar("Wanted")
LIMITS = EngineLimits(timeout=600.0, idle_exit=60.0, nice=0, memory_limit=None)


class Client:
    """A client process, and a folder with the files that it is asked about."""

    def __init__(self, settings: ClusterSettings, folder: Path) -> None:
        self.folder = folder
        self.others: list[Any] = []  # messages that nobody waited for
        self.process = subprocess.Popen(
            [*isolated.command("lensd.worker.cluster"), encode(settings).decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=isolated.FOLDER,
            env=isolated.environment(),
        )

    def close(self) -> None:
        """Its end at once, as when the daemon ends."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(60) == 0
        assert self.process.stdout is not None
        self.process.stdout.close()

    def send(self, request: CompressRequest | AnalyzeRequest) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(encode(Submit(number=request.job_id or "", request=request)))
        self.process.stdin.flush()

    def next(self, *kinds: type[Wanted]) -> Wanted:
        """The next message of these kinds."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            message = decode(line, FromClient)
            if isinstance(message, kinds):
                return message
            self.others.append(message)
        raise AssertionError(f"the client ended before any {kinds}: {self.others}")

    def compress(self, job_id: str, seed: int = 1) -> CompressRequest:
        """A request about a new LoRA."""
        return compress_small_lora(self.folder, job_id, seed)


def _settings(cluster: DaskCluster, **changes: Any) -> ClusterSettings:
    settings = ClusterSettings(address=cluster.address, paths="staged", limits=LIMITS)
    return structs.replace(settings, **changes)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    with DaskCluster(tmp_path_factory.mktemp("dask"), [(), ()]) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: DaskCluster, tmp_path: Path) -> Iterator[Client]:
    client = Client(_settings(cluster), tmp_path)
    yield client
    client.close()


def _sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_many_requests_are_under_way(client: Client) -> None:
    """Each temporary gets its own output; each worker process tells that it has started."""
    while not client.next(Available).threads:
        pass
    requests = {f"job{n}": client.compress(f"job{n}", seed=n) for n in range(6)}
    for request in requests.values():
        client.send(request)
    while requests:
        end = client.next(CompressResult)
        request = requests.pop(end.job_id or "")
        assert end.measures.sha256_in == _sha256(request.path)
        assert end.measures.sha256_out == _sha256(request.temporary)
    started = [e for m in client.others if isinstance(m, Happened) for e in m.events]
    assert {str(event.host).partition(":")[0] for event in started} == {"tcp"}


def test_requests_that_come_together_share_a_connection(
    cluster: DaskCluster, client: Client
) -> None:
    """Also those that come before there is one."""
    make_dask: Any = Dask  # it has no types
    with make_dask(cluster.address, set_as_default=False) as dask:
        before = dask.run_on_scheduler(_clients)
        for number in range(4):
            client.send(client.compress(f"job{number}", seed=number))
        for _ in range(4):
            assert isinstance(client.next(CompressResult, Unavailable, Lost), CompressResult)
        assert len(dask.run_on_scheduler(_clients) - before) == 1


def _clients(dask_scheduler: Any) -> set[str]:
    """Runs in the scheduler."""
    return {name for name in dask_scheduler.clients if name.startswith("Client-")}


def test_an_analysis_and_a_refusal(client: Client) -> None:
    """As from a worker process of this machine."""
    request = client.compress("one")
    client.send(
        AnalyzeRequest(
            job_id="two", path=request.path, name="x", parameters=Parameters(), device="cpu"
        )
    )
    assert client.next(AnalyzeResult).job_id == "two"
    Path(request.path).write_bytes(b"another program's bytes")
    client.send(request)
    assert client.next(Refused).reason is Reason.CHANGED
    assert Path(request.temporary).stat().st_size == 0


def test_files_are_read_by_their_paths(cluster: DaskCluster, tmp_path: Path) -> None:
    """With `shared`; a path that the workers do not have is no fault of the file."""
    client = Client(_settings(cluster, paths="shared"), tmp_path)
    request = client.compress("one")
    client.send(request)
    assert client.next(CompressResult).measures.sha256_out == _sha256(request.temporary)
    Path(request.path).unlink()
    client.send(request)
    message = client.next(Unavailable).message
    assert "cluster_paths: staged" in message
    client.close()


def test_a_worker_process_that_dies_costs_one_answer(cluster: DaskCluster, tmp_path: Path) -> None:
    """The engine has its limits on the machine of the cluster."""
    client = Client(_settings(cluster, limits=structs.replace(LIMITS, timeout=0.0)), tmp_path)
    large = write_lora(tmp_path / "large.safetensors", rank=32).path  # it takes a while
    identity = Identity.of(large.stat())
    client.send(structs.replace(client.compress("one"), path=str(large), identity=identity))
    lost = client.next(Lost)
    assert lost.reason is Reason.WORKER_TIMEOUT
    assert "127.0.0.1" in lost.message
    client.close()


def test_requests_outlive_workers_that_are_killed(cluster: DaskCluster, client: Client) -> None:
    """A nanny starts another worker; the bytes travel again where they were lost."""
    rng = random.Random(1)  # noqa: S311
    open_requests: dict[str, CompressRequest] = {}
    for n in range(12):
        request = client.compress(f"job{n}", seed=n)
        open_requests[f"job{n}"] = request
        client.send(request)
    again: list[CompressRequest] = []
    while open_requests:
        message = client.next(CompressResult, Lost, Unavailable, Available)
        if isinstance(message, Available):
            while again and message.threads:
                client.send(again.pop())
            continue
        request = open_requests[message.job_id or ""]
        if not isinstance(message, CompressResult):  # all workers died at once, or a worker
            again.append(request)
            continue
        assert message.measures.sha256_out == _sha256(request.temporary)
        del open_requests[message.job_id or ""]
        if len(open_requests) in (10, 6, 2):
            cluster.kill_a_worker(rng)


OTHER_VERSION = "import lensd; lensd.__version__ = '0.0.1'"


def test_workers_of_another_version_get_no_jobs(tmp_path: Path) -> None:
    """While there is another worker; without one the answer names both versions."""
    preload = ("--preload", OTHER_VERSION)
    with DaskCluster(tmp_path / "dask", [preload]) as cluster:
        client = Client(_settings(cluster), tmp_path)
        client.send(client.compress("one"))
        message = client.next(Unavailable).message
        assert f"it has lensd 0.0.1, and the daemon has lensd {__version__}" in message
        (worker,) = _check(_settings(cluster)).workers.values()
        assert "0.0.1" in str(worker.problem)
        client.close()


def test_only_a_certificate_opens_a_cluster(tmp_path: Path) -> None:
    """Of the same authority. Without TLS, and with another authority, there is no connection."""
    ours, theirs = make_certificates(tmp_path / "ours"), make_certificates(tmp_path / "theirs")
    with DaskCluster(tmp_path / "dask", [()], protocol="tls", options=ours.options) as cluster:
        settings = _settings(cluster, tls=Tls(ours.ca, ours.cert, ours.key))
        client = Client(settings, tmp_path)
        request = client.compress("one")
        client.send(request)
        assert client.next(CompressResult).measures.sha256_out == _sha256(request.temporary)
        client.close()
        foreign = structs.replace(settings, tls=Tls(ours.ca, theirs.cert, theirs.key))
        assert "cannot be reached" in str(_check(foreign).problem)
        plain = _settings(cluster, address=cluster.address.replace("tls:", "tcp:"))
        assert "cannot be reached" in str(_check(plain).problem)


def _check(settings: ClusterSettings) -> Checked:
    command = [*isolated.command("lensd.worker.cluster"), encode(settings).decode(), "--check"]
    done = subprocess.run(command, capture_output=True, check=True, cwd="/", timeout=120)
    checked: Checked = decode(done.stdout, Checked)
    return checked


def test_a_check_tells_what_the_workers_are(cluster: DaskCluster) -> None:
    """Their versions and kernels; or that there is no scheduler."""
    settings = _settings(cluster)
    # one of an earlier test's may have been killed, and its successor must register
    wait_until(lambda: len(_check(settings).workers) == 2, "both workers are there")
    found = _check(settings)
    assert found.problem is None
    assert {worker.problem for worker in found.workers.values()} == {None}
    assert len({worker.kernels for worker in found.workers.values()}) == 1
    away = _check(structs.replace(_settings(cluster), address="tcp://127.0.0.1:1"))
    assert "cannot be reached" in str(away.problem)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        other = _check(structs.replace(_settings(cluster), address=address))
    assert f"{address} does not answer as a scheduler of Dask" in str(other.problem)
