"""What the daemon and the client process of a cluster send each other: JSON lines, as a worker's.

Many requests are under way at the same time; a number tells them apart.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from lensd.errors import Reason
from lensd.logs.events import WorkerCrashed, WorkerStarted, WorkerStopped
from lensd.worker.request import (
    AnalyzeRequest,
    AnalyzeResult,
    Answer,
    Bug,
    CompressRequest,
    CompressResult,
    Hello,
    Refused,
)

Paths = Literal["staged", "shared"]


class EngineLimits(Struct, frozen=True, kw_only=True):
    """Limits of the worker process on each machine: the keys of `worker` with these names."""

    timeout: float
    idle_exit: float
    nice: int
    memory_limit: int | Literal["auto"] | None


class Tls(Struct, frozen=True):
    """Paths of files in PEM format."""

    ca: str
    cert: str
    key: str


class ClusterSettings(Struct, frozen=True, kw_only=True):
    """Which cluster, and how files get there."""

    address: str
    paths: Paths
    limits: EngineLimits
    tls: Tls | None = None


class Submit(Struct, frozen=True, kw_only=True, tag_field="op", tag="submit"):
    """Its answer has `number` as its `job_id`: a job may come again, and then has another one."""

    number: str
    request: CompressRequest | AnalyzeRequest


class Cancel(Struct, frozen=True, kw_only=True, tag_field="op", tag="cancel"):
    """The daemon does not wait for the answer to this request any more."""

    number: str


class Lost(Answer, frozen=True, kw_only=True, tag="lost"):
    """The worker process on a machine of the cluster ended; see workers.WorkerLost."""

    reason: Reason
    message: str


class Unfit(Answer, frozen=True, kw_only=True, tag="unfit"):
    """The worker of the cluster that has the request cannot do jobs; others may."""

    message: str


class Unavailable(Answer, frozen=True, kw_only=True, tag="unavailable"):
    """No worker of the cluster can answer now; this says nothing about the file."""

    message: str


class Available(Answer, frozen=True, kw_only=True, tag="available"):
    """The workers of the cluster have so many threads for jobs now; with 0, `message` says why."""

    threads: int
    message: str = ""


WorkerEvent = WorkerStarted | WorkerStopped | WorkerCrashed


class Happened(Answer, frozen=True, kw_only=True, tag="happened"):
    """What happened to the worker process of a machine of the cluster."""

    events: list[WorkerEvent]


ClusterEnd = CompressResult | AnalyzeResult | Refused | Bug | Lost | Unavailable


class Answered(Struct, frozen=True, kw_only=True):
    """What a task returns, beside the output: its end, and what happened before on `host`."""

    end: ClusterEnd | Unfit
    host: str
    events: list[WorkerEvent] = []


class WorkerFacts(Struct, frozen=True, kw_only=True):
    """What decides an output's bytes on one machine; `problem`: why it gets no jobs."""

    lensd: str = "?"
    torch: str = "?"
    kernels: str = "?"
    problem: str | None = None


class Checked(Struct, frozen=True, kw_only=True):
    """What `lensd check` learns: the workers by address, or why there is no cluster."""

    workers: dict[str, WorkerFacts] = {}
    problem: str | None = None


ToClient = Submit | Cancel
FromClient = Hello | Available | Happened | ClusterEnd
