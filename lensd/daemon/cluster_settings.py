"""What the client process of a cluster gets of the configuration."""

from __future__ import annotations

from lensd.config.worker import Worker
from lensd.worker.cluster.messages import ClusterSettings, EngineLimits, Tls


def cluster_settings(worker: Worker) -> ClusterSettings:
    """Raises ValueError without `worker.cluster`."""
    if worker.cluster is None:
        raise ValueError("worker.cluster is not set")
    tls = worker.cluster_tls
    return ClusterSettings(
        address=worker.cluster,
        paths=worker.cluster_paths,
        limits=EngineLimits(
            timeout=worker.timeout,
            idle_exit=worker.idle_exit,
            nice=worker.nice,
            memory_limit=worker.memory_limit,
        ),
        tls=Tls(tls.ca, tls.cert, tls.key) if tls else None,
    )
