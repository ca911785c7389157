"""The log: one JSON object a line, always valid, never a reason for the daemon to stop."""

from __future__ import annotations

import datetime as dt
import sys
from typing import TYPE_CHECKING, Any, cast

from lensd.logs.json_line import fitted, plain
from lensd.logs.sinks import FileSink, Sink, StreamSink

# structlog takes in rich, for a console output that is not used here, wherever it is installed:
# 5 MB for a daemon that may have 50. For the time of the import there is none.
_HIDE_RICH = "rich" not in sys.modules
if _HIDE_RICH:
    sys.modules["rich"] = None  # type: ignore[assignment]
try:
    import structlog
finally:
    if _HIDE_RICH:
        del sys.modules["rich"]

if TYPE_CHECKING:
    from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

SCHEMA = 1


def configure(
    path: str | None, level: str = "info", mode: int = 0o640, stdout: Sink | None = None
) -> None:
    """Send the log to a file (created with `mode`, rotated) or, with None, to stdout.

    `stdout` stands for it where a person at its terminal is told by other means.
    Raises StorageError when the file cannot be opened; later faults of the disk lose lines only.
    """
    sink: Sink = (stdout or StreamSink.stdout()) if path is None else FileSink(path, mode)
    structlog.configure(
        processors=[_common_fields, structlog.processors.format_exc_info, _render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: sink,
        cache_logger_on_first_use=False,
    )


def get(**fields: Any) -> FilteringBoundLogger:
    """A logger that adds `fields` to each of its lines: `get(watch="loras").info("file.settled")`.

    It follows a later `configure`; before the first one it writes to stdout.
    """
    if not structlog.is_configured():
        configure(None)
    return cast("FilteringBoundLogger", structlog.get_logger(**fields))


def _common_fields(_: WrappedLogger, method: str, fields: EventDict) -> EventDict:
    now = dt.datetime.now(dt.UTC).isoformat(timespec="microseconds")
    event = fields.pop("event", "")
    head = {"timestamp": now.replace("+00:00", "Z"), "level": method, "event": event}
    return {**head, "schema": SCHEMA, **fields}


def _render(_: WrappedLogger, _method: str, fields: EventDict) -> bytes:
    return fitted(plain(fields))
