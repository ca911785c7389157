"""The configuration as a person writes it: the whole file, and its smaller sections.

Every key has its range and default, and a description from which the example, the JSON Schema and
the documentation are made.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

from pydantic import Field

from lensd.config.part import Part
from lensd.config.settings import Settings, WatchEntry
from lensd.config.types import (
    Command,
    Days,
    FilePath,
    Level,
    LogMode,
    Occasions,
    PositiveSeconds,
    Seconds,
    Size,
    TextFile,
    Urls,
)
from lensd.config.worker import Worker


class KeepRules(NamedTuple):
    """Which originals to keep: those of some days, and at most so many bytes. None: all."""

    keep_days: int | None = None
    max_size: int | None = None

    @property
    def has_any(self) -> bool:
        """Return whether an original may be deleted without being named."""
        return self.keep_days is not None or self.max_size is not None


class Archive(Part):
    """Where the originals are kept."""

    path: Annotated[
        FilePath,
        Field(
            description="The folder for the originals, with the same layout as the watched "
            "folders. It must not be inside a watched folder. If it is on the same disk as a "
            "watched folder, originals move there without a copy of their data."
        ),
    ] = "/srv/lora-archive"
    keep_days: Annotated[
        Days | None,
        Field(
            description="Delete an original this many days (1 or more) after its file was "
            "compressed, if the compressed file still exists and is undamaged. lensd does so once "
            "a day, and when you run `lensd prune`. null: keep originals until you delete them."
        ),
    ] = None
    max_size: Annotated[
        Size | None,
        Field(
            description="Delete the oldest originals while all of them together are larger than "
            "this, e.g. 200GB, by the same rules and at the same times as `keep_days`. Originals "
            "of the last day stay. null: no limit."
        ),
    ] = None

    def rules(self) -> KeepRules:
        """Return which originals to keep."""
        return KeepRules(self.keep_days, self.max_size)


class State(Part):
    """Where lensd records what it did."""

    path: Annotated[
        FilePath,
        Field(
            description="The folder for the ledger, which is lensd's database. It must be on a "
            "local disk, and not inside a watched folder or the archive."
        ),
    ] = "/var/lib/lensd"


class Settle(Part):
    """When a file counts as complete."""

    quiet_seconds: Annotated[
        Seconds,
        Field(description="How many seconds a file must stay unchanged, 0 or more."),
    ] = 5
    unproven_seconds: Annotated[
        Seconds,
        Field(
            description="The same for a file that may be incomplete: lensd cannot prove that no "
            "program has it open for writing (as on network disks), or it has holes or ends in "
            "zeros. 0 or more."
        ),
    ] = 60
    rescan_seconds: Annotated[
        PositiveSeconds,
        Field(
            description="How often, in seconds (more than 0), to search the folders whose events "
            "are not reliable: those on network disks, and those for which the kernel has too few "
            "watches. The other folders are searched every 6 hours, so that disks can sleep."
        ),
    ] = 300


class Log(Part):
    """The log, with one JSON object per line."""

    path: Annotated[
        FilePath | None,
        Field(
            description="The log file, which is rotated at 10 MB. null: write to stdout, which "
            "systemd keeps in its journal."
        ),
    ] = None
    level: Annotated[
        Level, Field(description="The lowest level to log: debug, info, warning or error.")
    ] = "info"
    mode: Annotated[
        LogMode, Field(description="The access rights of the log file, as for chmod, in quotes.")
    ] = "0640"

    @property
    def mode_bits(self) -> int:
        """`mode` as a number."""
        return int(self.mode, 8)


class Metrics(Part):
    """Numbers for Prometheus."""

    textfile: Annotated[
        TextFile | None,
        Field(
            description="A file for the textfile collector of node_exporter, e.g. "
            "/var/lib/prometheus/node-exporter/lensd.prom; its name must end in .prom. lensd "
            "writes it after each file and once a minute. null: no such file."
        ),
    ] = None


class Notify(Part):
    """Messages to people, by a process of its own: `lensd notify` (the daemon sends nothing)."""

    urls: Annotated[
        Urls,
        Field(
            repr=False,
            description="Where to send messages, as apprise writes addresses (mailto://, ntfy://, "
            "discord://, ...); needs `pip install apprise` in lensd's environment. They contain "
            "passwords: let only lensd's user and group read this file.",
        ),
    ] = ()
    command: Annotated[
        Command | None,
        Field(
            description="A program that gets each message, as a list of its words. It reads the "
            "text from stdin; LENSD_TITLE has the title. null: none."
        ),
    ] = None
    on: Annotated[
        Occasions,
        Field(
            description="What to report, one or more of failed, quarantined (files), degraded (a "
            "folder does not do what is needed), disk_full (jobs wait for a disk that is full or "
            "read-only) and weekly (what the last seven days saved)."
        ),
    ] = ("failed", "quarantined", "degraded", "disk_full")
    interval_seconds: Annotated[
        PositiveSeconds,
        Field(
            description="At most one message in this many seconds, more than 0: what happens "
            "meanwhile is in the next one. The first one waits at most 30 seconds."
        ),
    ] = 900

    @property
    def is_wanted(self) -> bool:
        """Whether there is a recipient."""
        return bool(self.on and (self.urls or self.command))


class Document(Part):
    """The whole file."""

    watch: Annotated[
        tuple[WatchEntry, ...],
        Field(strict=False, min_length=1, description="The folders to watch, one or more."),
    ]
    defaults: Annotated[Settings, Field(description="Settings for all watched folders.")] = (
        Settings()
    )
    archive: Annotated[Archive, Field(description=Archive.__doc__)] = Archive()
    state: Annotated[State, Field(description=State.__doc__)] = State()
    settle: Annotated[Settle, Field(description=Settle.__doc__)] = Settle()
    worker: Annotated[Worker, Field(description=Worker.__doc__)] = Worker()
    log: Annotated[Log, Field(description=Log.__doc__)] = Log()
    metrics: Annotated[Metrics, Field(description=Metrics.__doc__)] = Metrics()
    notify: Annotated[Notify, Field(description=Notify.__doc__)] = Notify()
