"""Check the keys of `worker` about a cluster: its library, its encryption, and the files for it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator

from lensd.config.addresses import is_exposed
from lensd.config.faults import Fault
from lensd.config.model import Config
from lensd.config.worker import Worker


def check_cluster(config: Config) -> Iterator[Fault]:
    """Yield the faults of `worker.cluster` and of the keys beside it."""
    worker = config.worker
    if worker.cluster is None:
        return
    if importlib.util.find_spec("distributed") is None:
        message = "distributed, which connects to a Dask cluster, is not installed"
        remedy = "pip install distributed in the environment of lensd"
        yield config.fault("worker.cluster", message, remedy)
    if worker.cluster.startswith("tls://"):
        yield from _check_tls(config, worker)
    elif is_exposed(worker.cluster) and not worker.cluster_insecure:
        message = "tcp:// to another machine is not encrypted: others could read files and run code"
        remedy = "use tls:// with `cluster_tls`; or set cluster_insecure: true in a safe network"
        yield config.fault("worker.cluster", message, remedy)


def _check_tls(config: Config, worker: Worker) -> Iterator[Fault]:
    if worker.cluster_tls is None:
        message = "tls:// needs a certificate"
        remedy = (
            "add cluster_tls: {ca: ..., cert: ..., key: ...} (docs/cluster.md makes these files)"
        )
        yield config.fault("worker.cluster", message, remedy)
        return
    for name in ("ca", "cert", "key"):
        path = getattr(worker.cluster_tls, name)
        if not os.access(path, os.R_OK):
            missing = "cannot be read" if os.path.exists(path) else "does not exist"
            message = f"the file {path} {missing}"
            remedy = "write the path of a file in PEM format that lensd's user may read"
            yield config.fault(f"worker.cluster_tls.{name}", message, remedy)
