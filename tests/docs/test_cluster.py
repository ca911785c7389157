"""The commands of docs/cluster.md, as a person types them, with ports and folders of the test."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, cast

import pytest
import yaml

from tests.docs import markdown, shell
from tests.docs.rendering import REPOSITORY
from tests.support.dask_cluster import DASK, free_port, kill_all
from tests.support.home_server import HomeServer, wait_until

PAGE = (REPOSITORY / "docs/cluster.md").read_text(encoding="utf-8")
CERTIFICATES, SCHEDULER, WORKER = (
    block.text for block in markdown.blocks(PAGE) if block.language == "sh"
)
[JOBQUEUE] = (block.text for block in markdown.blocks(PAGE) if block.language == "python")
CONFIGURATION, KUBERNETES = (
    block.text for block in markdown.blocks(PAGE) if block.language == "yaml"
)


@contextmanager
def _started(words: list[str], folder: Path) -> Iterator[None]:
    assert words.pop(0) == "dask"
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen([*DASK, *words], cwd=folder, stdout=log, stderr=log)
    try:
        yield
    finally:
        kill_all(process.pid)
        process.wait()


@pytest.mark.slow
def test_a_cluster_is_started_as_the_page_says(tmp_path: Path) -> None:
    """The daemon compresses a file there, with the certificates of the page."""
    tls, server, port = tmp_path / "tls", HomeServer(tmp_path), free_port()
    tls.mkdir()
    shell.output(shell.plain(CERTIFICATES), tls)
    here = f"127.0.0.1:{port}"
    scheduler = shlex.split(SCHEDULER.replace("8786", str(port)))
    worker = shlex.split(WORKER.replace("SCHEDULER:8786", here).replace(" /tmp ", f" {tls} "))
    text = CONFIGURATION.replace("SCHEDULER:8786", here).replace("/etc/lensd", str(tls))
    server.configure(worker=yaml.safe_load(text)["worker"])
    with ExitStack() as started:
        started.enter_context(_started(scheduler, tls))
        started.enter_context(_started(worker, tls))
        wait_until(lambda: b"Registered to" in (tls / "log").read_bytes(), "the worker")
        checked = server.lensd("check")
        assert f"tls://{here}, 1 worker" in checked.stdout, checked.stderr
        path = server.drop("style.safetensors", seed=1).path
        server.once()
    assert server.archived(path).exists()


@pytest.mark.slow
def test_a_batch_system_starts_workers_as_the_page_says(tmp_path: Path) -> None:
    """By the class of dask-jobqueue that runs its job scripts on this machine."""
    tls, server = tmp_path / "tls", HomeServer(tmp_path)
    tls.mkdir()
    shell.output(shell.plain(CERTIFICATES), tls)
    script = JOBQUEUE
    for said, here in {
        "dask_jobqueue import SLURMCluster": "dask_jobqueue.local import LocalCluster",
        "SLURMCluster(": "LocalCluster(",
        "/scratch": str(tls),
        "8786": str(free_port()),
        "jobs=20": "jobs=1",
    }.items():
        assert said in script
        script = script.replace(said, here)
    command = [sys.executable, "-c", script]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=tls, text=True, stdin=pipe, stdout=pipe) as cluster:
        try:
            output = cast("IO[str]", cluster.stdout)
            address = "".join(iter(lambda: output.read(1), " "))
            text = CONFIGURATION.replace("tls://SCHEDULER:8786", address)
            worker = yaml.safe_load(text.replace("/etc/lensd", str(tls)))["worker"]
            server.configure(worker=worker)
            wait_until(lambda: ", 1 worker" in server.lensd("check").stdout, "the worker")
            path = server.drop("style.safetensors", seed=1).path
            server.once()
        finally:
            kill_all(cluster.pid)
    assert server.archived(path).exists()


def test_kubernetes_runs_the_same_commands() -> None:
    """But for addresses and folders."""
    manifests = list(yaml.safe_load_all(KUBERNETES))
    containers = [
        manifest["spec"]["template"]["spec"]["containers"][0]
        for manifest in manifests
        if manifest["kind"] == "Deployment"
    ]
    commands = [[word.removeprefix("/tls/") for word in c["args"]] for c in containers]
    worker = WORKER.replace("SCHEDULER", "lensd-scheduler")
    assert commands == [shlex.split(SCHEDULER), shlex.split(worker)]
