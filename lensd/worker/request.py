"""What the daemon asks of the worker, and what the worker answers.

Each message is one JSON line (lensd.store.json_lines): a request has the field `op`, an answer the
field `type`. Daemon and worker are of one version, so that these types may change.
"""

from __future__ import annotations

from typing import Self

from msgspec import Struct

from lensd.errors import Failed, FileError, Kept, Outcome, PartialMeasures, Reason, Skipped
from lensd.logs.measures import Analyzed, Compressed
from lensd.lora.parameters import Parameters
from lensd.store.identity import Identity

_ERRORS: dict[Outcome, type[FileError]] = {k.outcome: k for k in (Kept, Skipped, Failed)}


class Request(Struct, frozen=True, kw_only=True, tag_field="op"):
    """What all requests have.

    `path` is the file to read, `name` the name that an output's marks give it. With an `identity`
    the worker refuses any other version of the file. `device`: cpu, cuda, cuda:N or auto.
    `processes`: how many compute when the request begins; each uses its part of the cores.
    """

    path: str
    name: str
    parameters: Parameters
    device: str
    job_id: str | None = None
    identity: Identity | None = None
    processes: int = 1


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
    """Base of everything that the worker says.

    `job_id`: of the request that it is about. A worker with one request at a time leaves it out.
    """

    job_id: str | None = None


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
    """`host`: the worker of a cluster that computed it, None for a process of this machine."""

    measures: Compressed
    host: str | None = None


class AnalyzeResult(Answer, frozen=True, kw_only=True, tag="analyzed"):
    measures: Analyzed


class Refused(Answer, frozen=True, kw_only=True, tag="refused"):
    """The FileError with which a request ended."""

    outcome: Outcome
    reason: Reason
    message: str
    measures: PartialMeasures
    disk: str | None
    folder_advice: str = ""

    @classmethod
    def of(cls, error: FileError) -> Self:
        return cls(
            outcome=error.outcome,
            reason=error.reason,
            message=error.message,
            measures=error.measures,
            disk=error.disk,
            folder_advice=error.folder_advice,
        )

    def to_error(self) -> FileError:
        """The error of which it was made."""
        return _ERRORS[self.outcome](
            self.reason,
            self.message,
            measures=self.measures,
            disk=self.disk,
            folder_advice=self.folder_advice,
        )


class Bug(Answer, frozen=True, kw_only=True, tag="bug"):
    """An exception that is no FileError."""

    traceback: str


Result = CompressResult | AnalyzeResult
AnyAnswer = Hello | Heartbeat | Progress | CompressResult | AnalyzeResult | Refused | Bug
