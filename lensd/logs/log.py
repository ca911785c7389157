"""The log: one JSON object a line, always valid, never a reason for the daemon to stop."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from lensd.logs.events import SCHEMA, Event, Level
from lensd.logs.json_line import fitted, plain
from lensd.logs.sinks import FileSink, Sink, StreamSink

if TYPE_CHECKING:
    from structlog.typing import EventDict, WrappedLogger

_FIRST = ("path", "watch", "job_id", "mode")  # of a line about a file, after the head


class _Writer:
    """The logger that structlog wraps: a method for each level, all of which write the line."""

    def __init__(self, sink: Sink) -> None:
        for level in Level:
            setattr(self, level, sink.write)


def configure(
    path: str | None, level: str = "info", mode: int = 0o640, stdout: Sink | None = None
) -> None:
    """Send the log to a file (created with `mode`, rotated) or, with None, to stdout.

    `stdout` takes the lines instead of the real one. Raises StorageError when the file cannot be
    opened; later faults of the disk lose lines only.
    """
    sink = (stdout or StreamSink.stdout()) if path is None else FileSink(path, mode)
    structlog.configure(
        processors=[_add_head, _render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Writer(sink),
        cache_logger_on_first_use=False,
    )


def emit(event: Event) -> None:
    """Write an event as one line, unless it is below the level that was configured.

    From any thread. Before `configure`, lines go to stdout.
    """
    if not structlog.is_configured():
        configure(None)
    fields: dict[str, Any] = msgspec.to_builtins(event)
    getattr(structlog.get_logger(), event.level)(fields.pop("event"), **fields)


def _add_head(_: WrappedLogger, level: str, fields: EventDict) -> EventDict:
    now = dt.datetime.now(dt.UTC).isoformat(timespec="microseconds")
    head = {
        "timestamp": now.replace("+00:00", "Z"),
        "level": level,
        "event": fields.pop("event"),
        "schema": SCHEMA,
    }
    first = {name: fields.pop(name) for name in _FIRST if name in fields}
    return {**head, **first, **fields}


def _render(_: WrappedLogger, _level: str, fields: EventDict) -> bytes:
    return fitted(plain(dict(fields)))
