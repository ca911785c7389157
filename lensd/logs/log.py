"""The log: one JSON object a line, always valid, never a reason for the daemon to stop."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec

from lensd.logs.events import SCHEMA, Event, Level
from lensd.logs.json_line import fitted, plain
from lensd.logs.sinks import FileSink, Sink, StreamSink

_LEVELS = list(Level)  # from the least to the most important
_FIRST = ("path", "watch", "job_id", "mode")  # of a line about a file, after the head


class _Log:
    """Where lines go, and from which level on. Before `configure`: to stdout, from info on."""

    sink: Sink | None = None
    level = Level.INFO


def configure(
    path: str | None, level: str = "info", mode: int = 0o640, stdout: Sink | None = None
) -> None:
    """Send the log to a file (created with `mode`, rotated) or, with None, to stdout.

    `stdout` takes the lines instead of the real one. Raises StorageError when the file cannot be
    opened; later faults of the disk lose lines only.
    """
    _Log.sink = (stdout or StreamSink.stdout()) if path is None else FileSink(path, mode)
    _Log.level = Level(level)


def emit(event: Event) -> None:
    """Write an event as one line, unless it is below the level that was configured.

    From any thread.
    """
    if _Log.sink is None:
        configure(None)
    if _Log.sink is not None and _LEVELS.index(event.level) >= _LEVELS.index(_Log.level):
        _Log.sink.write(line(event, dt.datetime.now(dt.UTC)))


def line(event: Event, now: dt.datetime) -> bytes:
    """The line of an event, without its end. `now` is in UTC."""
    fields: dict[str, Any] = msgspec.to_builtins(event)
    head = {
        "timestamp": now.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "level": event.level.value,
        "event": fields.pop("event"),
        "schema": SCHEMA,
    }
    first = {name: fields.pop(name) for name in _FIRST if name in fields}
    return fitted(plain({**head, **first, **fields}))
