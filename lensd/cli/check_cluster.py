"""`lensd check` with a cluster: its workers, asked by a client process."""

from __future__ import annotations

import subprocess

from lensd.cli.views.facts import Fact, Found, Sentence
from lensd.config.worker import Worker
from lensd.daemon.cluster_settings import cluster_settings
from lensd.errors import StorageError
from lensd.store.json_lines import decode, encode
from lensd.text import plural
from lensd.worker import isolated
from lensd.worker.cluster.messages import Checked

_SECONDS = 300  # each worker of the cluster starts its process


def describe_cluster(worker: Worker) -> list[Found]:
    """Return the workers as facts. Raises StorageError if none of them can do jobs."""
    settings = cluster_settings(worker)
    command = [*isolated.command("lensd.worker.cluster"), encode(settings).decode(), "--check"]
    try:
        done = subprocess.run(
            command,
            cwd=isolated.FOLDER,
            env=isolated.environment(),
            capture_output=True,
            timeout=_SECONDS,
            check=True,
        )
        found: Checked = decode(done.stdout, Checked)
    except (subprocess.SubprocessError, ValueError) as error:
        raise StorageError(
            f"the cluster {settings.address} could not be checked: {error}"
        ) from None
    workers = plural(len(found.workers), "worker")
    lines: list[Found] = [Fact("cluster", f"{settings.address}, {workers}, {settings.paths}")]
    for address, facts in found.workers.items():
        what = facts.problem or f"lensd {facts.lensd}, torch {facts.torch}, {facts.kernels}"
        lines.append(Fact("", f"{address}: {what}"))
    if not any(facts.problem is None for facts in found.workers.values()):
        why = found.problem or "; ".join(str(facts.problem) for facts in found.workers.values())
        raise StorageError(f"no worker of the cluster {settings.address} can do jobs: {why}")
    kernels = {facts.kernels for facts in found.workers.values() if facts.problem is None}
    if len(kernels) > 1:
        text = (
            "note: the workers compute with different instructions, so that the same file may get "
            "an output of other bytes, of the same quality, on another worker"
        )
        lines.append(Sentence(text))
    return lines
