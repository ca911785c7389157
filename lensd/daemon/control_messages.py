"""The messages on the control socket, each with its type: a request, then replies, then a result.

A message is one JSON line. A request carries its verb and all of its fields. A reply is recognized
by its fields, so that `{"say": TEXT}` and `{"code": CODE, "error": TEXT or null}` mean the same to
clients and daemons of other versions.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TypeAlias

import msgspec

from lensd.errors import LensdError, UsageError
from lensd.store.json_lines import decode

LONGEST_REQUEST = 1 << 20  # bytes: some ten thousand paths

_REMEDY = "restart the daemon after an upgrade of lensd"


class _Request(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="verb", forbid_unknown_fields=True
):
    """An unknown field is an error: it may be an option that changes what the verb does."""

    @property
    def verb(self) -> str:
        return str(self.__struct_config__.tag)


class RestoreRequest(_Request, frozen=True, tag="restore"):
    """Put originals back: those of `paths` (absolute), or with `everything` all of them.

    `version` selects an older original by the start of its sha256. With `purge` the archive keeps
    no copy.
    """

    paths: tuple[str, ...] = ()
    everything: bool = False
    version: str | None = None
    purge: bool = False


class RetryRequest(_Request, frozen=True, tag="retry"):
    """Try failed files again, also before a postponed job is due. No paths: all of them."""

    paths: tuple[str, ...] = ()


class PauseRequest(_Request, frozen=True, tag="pause"):
    """Start no new job at or below the paths. No paths: no job at all."""

    paths: tuple[str, ...] = ()


class ResumeRequest(_Request, frozen=True, tag="resume"):
    """End the pauses of exactly these paths. No paths: all pauses."""

    paths: tuple[str, ...] = ()


class PruneRequest(_Request, frozen=True, tag="prune"):
    """Delete originals that the archive need not keep; with `dry_run` only report them.

    With `paths` (absolute; files, folders, patterns) the originals of these files, however young.
    With `deleted` the originals of files that were deleted.
    """

    dry_run: bool = False
    paths: tuple[str, ...] = ()
    deleted: bool = False


class OnceRequest(_Request, frozen=True, tag="once"):
    """Process the files at or below the paths (absolute) that are there; no paths: all.

    With `redo` also files again, from their originals.
    """

    paths: tuple[str, ...] = ()
    redo: bool = False


class StepRequest(_Request, frozen=True, tag="step"):
    """How far are the running jobs? The answer is a Step for each that has made one."""


Request: TypeAlias = (
    OnceRequest
    | RestoreRequest
    | RetryRequest
    | PauseRequest
    | ResumeRequest
    | PruneRequest
    | StepRequest
)
# These change files, so the thread that runs the jobs handles them, between two jobs.
FileRequest = (RestoreRequest, PruneRequest)


class Message(msgspec.Struct, frozen=True):
    """A line for the person who waits, as it may be printed: `lensd.text.visible`."""

    say: str


class Progress(Message, frozen=True, kw_only=True):
    """A restore has finished with the file `path`, the `done`th of `of`.

    `method` is move, reflink or copy, and null if the original could not be put back.
    """

    path: str
    done: int
    of: int
    method: str | None = None


class Step(Message, frozen=True, kw_only=True):
    """`done` of the `of` modules of a running job have passed a stage."""

    job_id: str
    stage: str
    done: int
    of: int


class Result(msgspec.Struct, frozen=True):
    """The last message: the exit code of the command, and its error if it has one."""

    code: int
    error: str | None = None


Reply: TypeAlias = Message | Progress | Step | Result
# A line is tried as each of them in this order: those with more required fields come first.
_REPLIES: tuple[type[Message | Result], ...] = (Result, Progress, Step, Message)


def decode_request(line: bytes) -> Request:
    """Raises UsageError for a line that is too long or is no request of this version."""
    if len(line) > LONGEST_REQUEST:
        raise UsageError(
            f"the request is longer than {LONGEST_REQUEST >> 20} MiB; name fewer files at once"
        )
    try:
        request: Request = decode(line, Request)
    except ValueError as error:
        verb = _find_verb(line)
        if verb is not None and verb not in _VERBS:
            raise UsageError(
                f"the running daemon does not support this command ({verb!r}); {_REMEDY}"
            ) from None
        raise UsageError(
            f"the running daemon cannot read this request ({error}); {_REMEDY}"
        ) from None
    for path in getattr(request, "paths", ()):
        if not path.startswith("/") or "\0" in path:
            raise UsageError(f"{path!r} is no absolute path of a file; give one")
    return request


def decode_reply(line: bytes) -> Reply:
    """Raises LensdError for a line that is no reply of this version."""
    for kind in _REPLIES:
        with suppress(ValueError):
            return decode(line, kind)
    raise LensdError(f"the answer of the running daemon cannot be read; {_REMEDY}")


class _AnyRequest(msgspec.Struct, frozen=True):
    verb: str


def _find_verb(line: bytes) -> str | None:
    """The verb of a line that may be no request at all."""
    try:
        return decode(line, _AnyRequest).verb
    except ValueError:
        return None


_VERBS = frozenset(kind.__struct_config__.tag for kind in Request.__args__)
