"""What the daemon asks of the worker, and what the worker answers.

Each message is one JSON line (lensd.store.json_lines): a request has the field `op`, an answer the
field `type`. Daemon and worker are of one version, so that these types may change.
"""

from __future__ import annotations

from msgspec import Struct

from lensd.errors import Outcome, PartialMeasures, Reason
from lensd.logs.measures import Analyzed, Compressed
from lensd.lora.parameters import Parameters
from lensd.store.identity import Identity


class Request(Struct, frozen=True, kw_only=True, tag_field="op"):
    """What all requests have.

    `path` is the file to read, `name` the name that an output's marks give it. With an `identity`
    the worker refuses any other version of the file. `device`: cpu, cuda, cuda:N or auto.
    """

    path: str
    name: str
    parameters: Parameters
    device: str
    job_id: str | None = None
    identity: Identity | None = None


class CompressRequest(Request, frozen=True, kw_only=True, tag="compress"):
    """Write the output into the file `temporary`, which is empty and has that device and inode.

    An output that saves less than the share `min_saving`, or whose relative delta error is above
    `max_error`, is refused. `adapter_config`: an adapter_config.json lies beside the file.
    """

    temporary: str
    temporary_inode: tuple[int, int]
    min_saving: float
    max_error: float | None = None
    adapter_config: bool = False


class AnalyzeRequest(Request, frozen=True, kw_only=True, tag="analyze"):
    """Measure what `compress` would give, and write nothing."""


AnyRequest = CompressRequest | AnalyzeRequest


class Answer(Struct, frozen=True, kw_only=True, tag_field="type"):
    """Base of everything that the worker says."""


class Hello(Answer, frozen=True, kw_only=True, tag="hello"):
    """The worker has started. `device` is cpu or cuda; `torch` is a version; see WorkerStarted."""

    pid: int
    device: str
    torch: str
    kernels: str = "python"  # of a worker from before there were kernels, in bench.engine


class Heartbeat(Answer, frozen=True, kw_only=True, tag="heartbeat"):
    """The worker is alive."""


class Progress(Answer, frozen=True, kw_only=True, tag="progress"):
    """`done` of the `of` modules (or tensors) of a stage are done."""

    stage: str
    done: int
    of: int


class CompressResult(Answer, frozen=True, kw_only=True, tag="compressed"):
    measures: Compressed


class AnalyzeResult(Answer, frozen=True, kw_only=True, tag="analyzed"):
    measures: Analyzed


class Refused(Answer, frozen=True, kw_only=True, tag="refused"):
    """The FileError with which a request ended."""

    outcome: Outcome
    reason: Reason
    message: str
    measures: PartialMeasures
    disk: str | None


class Bug(Answer, frozen=True, kw_only=True, tag="bug"):
    """An exception that is no FileError."""

    traceback: str


Result = CompressResult | AnalyzeResult
AnyAnswer = Hello | Heartbeat | Progress | CompressResult | AnalyzeResult | Refused | Bug
