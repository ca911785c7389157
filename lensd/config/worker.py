"""The section `worker`: the processes that compute, here or on a cluster."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lensd.config.part import Part
from lensd.config.schedule import Window, parse
from lensd.config.types import (
    ClusterAddress,
    ClusterFallback,
    ClusterPaths,
    Device,
    FilePath,
    MemoryLimit,
    PositiveSeconds,
    Schedule,
    Seconds,
)


class ClusterTls(Part):
    """Files in PEM format: lensd's certificate and key, and who signed that of the scheduler."""

    ca: Annotated[FilePath, Field(description="The certificate authority of the cluster.")]
    cert: Annotated[FilePath, Field(description="The certificate of lensd.")]
    key: Annotated[FilePath, Field(description="The key of that certificate.")]


class Worker(Part):
    """The processes that compute. They start with the first files, and end when they are idle."""

    device: Annotated[
        Device,
        Field(
            description="auto, cpu, cuda, or cuda:N for the GPU with the number N. auto uses a GPU "
            "only for large files."
        ),
    ] = "auto"
    processes: Annotated[
        int,
        Field(
            ge=0,
            le=64,
            description="How many files are computed at the same time, each by a process of its "
            "own: 1 to 64. 0: one for each core, as far as half of the memory suffices for "
            "`memory_limit` (1GiB where that is auto or null) times the processes; `lensd check` "
            "shows how many. With a GPU write 1.",
        ),
    ] = 1
    idle_exit: Annotated[
        Seconds,
        Field(
            description="A process ends, and frees its memory, after this many seconds without "
            "work, 0 or more."
        ),
    ] = 300
    timeout: Annotated[
        PositiveSeconds,
        Field(
            description="A process is ended when one file takes longer than this, in seconds "
            "(more than 0). A file for which that happens twice is set aside; between the two, all "
            "others have their turn."
        ),
    ] = 1800
    nice: Annotated[
        int,
        Field(
            ge=0,
            le=19,
            description="By how much a process lowers its priority: 0 (not at all) to 19 (to "
            "the lowest). If it is not 0, other programs come first at the disks too.",
        ),
    ] = 10
    memory_limit: Annotated[
        MemoryLimit | None,
        Field(
            description="A process is ended when it takes more memory than this, e.g. 2GiB; at "
            "least 256MiB. A file for which that happens three times is set aside. auto: half of "
            "the memory of the machine (or of the container), divided by the processes, and at "
            "least 1GiB. null: no limit."
        ),
    ] = "auto"
    schedule: Annotated[
        Schedule | None,
        Field(
            description='Compress only at this time of day, in local time, e.g. "01:00-07:00"; it '
            "may include midnight. A file that is being compressed at its end is finished. null: "
            "at any time."
        ),
    ] = None

    cluster: Annotated[
        ClusterAddress | None,
        Field(
            description="Let the workers of a Dask cluster compute: the address of its scheduler, "
            "tls://HOST:PORT; needs `pip install distributed` here and there. docs/cluster.md "
            "shows how to start a cluster. null: this machine computes."
        ),
    ] = None
    cluster_paths: Annotated[
        ClusterPaths,
        Field(
            description="staged: the bytes of each file travel to the cluster. shared: its "
            "machines have the watched folders and the archive mounted at the same paths, and read "
            "the files there."
        ),
    ] = "staged"
    cluster_tls: Annotated[
        ClusterTls | None,
        Field(
            description="Files in PEM format for tls://, e.g. {ca: /etc/lensd/ca.pem, cert: "
            "/etc/lensd/lensd.pem, key: /etc/lensd/lensd.key}; the cluster's workers run code, so "
            "that only those who have such a certificate may use them."
        ),
    ] = None
    cluster_insecure: Annotated[
        bool,
        Field(
            description="true: permit tcp:// to other machines, where every program in the network "
            "can read the files and run code on the cluster."
        ),
    ] = False
    cluster_fallback: Annotated[
        ClusterFallback,
        Field(
            description="What happens while no worker of the cluster can be reached. wait: the "
            "files wait. local: this machine computes them."
        ),
    ] = "wait"

    @property
    def hours(self) -> Window | None:
        """The schedule as a window; None without a schedule."""
        return None if self.schedule is None else parse(self.schedule)
