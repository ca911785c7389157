"""Models of the configuration as a person writes it.

Every key has its range and default, and a description from which the example, the JSON Schema and
the documentation are made.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from lensd.config.schedule import Window, parse
from lensd.config.types import (
    Allocation,
    Command,
    Days,
    Device,
    Encodings,
    Existing,
    FilePath,
    Float32,
    FolderName,
    Level,
    LogMode,
    MemoryLimit,
    Mode,
    Occasions,
    OneProcess,
    Patterns,
    PositiveSeconds,
    Schedule,
    Seconds,
    Size,
    Targets,
    TextFile,
    Urls,
)
from lensd.lora.parameters import Parameters
from lensd.lora.portability import DEFAULT_TARGETS, ENCODINGS, PROGRAMS


class Part(BaseModel):
    """A section: frozen and strict, so unknown keys and numbers in quotes are faults."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Settings(Part):
    """How to compress the files of a folder."""

    mode: Annotated[
        Mode,
        Field(
            description="analyze: only measure, change no file. rank: remove the ranks that a file "
            "does not need. int8: store the weights in 8 bits. ultra: do both, which gives the "
            "smallest files."
        ),
    ] = "ultra"
    energy: Annotated[
        float,
        Field(
            gt=0,
            le=1,
            description="How much of each LoRA's effect to keep, more than 0 and at most 1: 0.99 "
            "keeps 99 percent of the sum of its squared singular values, which is a relative error "
            "of about 10 percent. A lower value gives smaller files; 1.0 removes only ranks that "
            "have no effect.",
        ),
    ] = 0.99
    allocation: Annotated[
        Allocation,
        Field(
            description="module: every module of a LoRA keeps the share `energy`. file: the LoRA "
            "as a whole keeps it, which takes fewer bytes. balanced: as file, but weak modules "
            "count for more, which changes images less in the same bytes (docs/quality.md)."
        ),
    ] = "module"
    strict_energy: Annotated[
        bool,
        Field(
            description="true: the measured error, with that of 8-bit or 16-bit numbers, is at "
            "most sqrt(1 - energy), 10 percent for 0.99: of every module, or of the file with "
            "another `allocation`. 8-bit files are about 1 percent larger at 0.99, 12 percent at "
            "0.999. false: only the removed ranks keep to it, so that the error can be a little "
            "above. `target_size` ignores it."
        ),
    ] = False
    target_size: Annotated[
        Size | None,
        Field(
            description="The size that every file should fit in, e.g. 32MB or 32MiB. Each file "
            "then keeps as much of its effect as fits; `energy` is ignored, and `allocation` is "
            "`file` unless it is `balanced`. A file that does not fit even with one rank per "
            "module is larger. null: no target size."
        ),
    ] = None
    max_rank: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Field(
            description="The most ranks that a module may keep, 1 or more; mode int8 ignores it. "
            "null: no limit."
        ),
    ] = None
    constant_rank: Annotated[
        bool,
        Field(
            description="Give all modules of a file the same rank. Only FLUX files for diffusers "
            "before 0.40 need it."
        ),
    ] = False
    float32: Annotated[
        Float32,
        Field(
            description="How to store weights of 32 bits or more that do not become 8-bit. auto: "
            "as bfloat16 if that represents every weight exactly or if a weight is too large for "
            "float16, else as float16; but a module whose weights are so small that float16 loses "
            "more of them is stored as bfloat16. float16 or bfloat16: always in that format. keep: "
            "as float32."
        ),
    ] = "auto"
    targets: Annotated[
        Targets,
        Field(
            description="The programs that must be able to load the result, one or more of "
            f"{', '.join(PROGRAMS)}. If one of them can load a file, but not with 8-bit weights, "
            "lensd does not write 8-bit weights for that file."
        ),
    ] = DEFAULT_TARGETS
    encodings: Annotated[
        Encodings,
        Field(
            description="The 8-bit formats that modes int8 and ultra may use: int8, float8 or "
            "both. int8 has about half the error of float8, so lensd uses float8 only where one of "
            "the `targets` cannot load int8 right, and 16 bits where neither can be loaded."
        ),
    ] = ENCODINGS
    max_error: Annotated[
        Annotated[float, Field(gt=0)] | None,
        Field(
            description="Keep the original if the measured relative error of the result is "
            "larger than this number (more than 0), e.g. 0.1. null: no limit."
        ),
    ] = None
    min_saving: Annotated[
        float,
        Field(
            ge=0,
            lt=1,
            description="Keep the original if the result is not smaller by at least this share (0 "
            "or more, less than 1): 0.05 means 5 percent.",
        ),
    ] = 0.05
    preserve_mtime: Annotated[
        bool,
        Field(
            description="true: the result gets the modification time of the original, so that "
            "programs neither sort it as a new file nor hash it again."
        ),
    ] = True

    def with_allocation_of_size(self) -> Settings:
        """Return the settings with `allocation: file` where `target_size` replaces `module`."""
        if self.target_size is None or self.allocation != "module":
            return self
        return self.model_copy(update={"allocation": "file"})

    def parameters(self) -> Parameters:
        """Return the settings that the numerics use."""
        return Parameters(
            mode=self.mode,
            energy=self.energy,
            allocation=self.allocation,
            target_size=self.target_size,
            max_rank=self.max_rank,
            constant_rank=self.constant_rank,
            strict_energy=self.strict_energy,
            float32=self.float32,
            targets=tuple(self.targets),
            encodings=tuple(e for e in ENCODINGS if e in self.encodings),
        )


class WatchEntry(Settings):
    """A watched folder. Any key of `defaults` can be set here for this folder alone."""

    path: Annotated[
        FilePath,
        Field(
            description="The folder to watch. It may be a symbolic link itself; lensd does not "
            "follow symbolic links inside it. A relative path starts at the folder of this file.",
            examples=["/srv/loras"],
        ),
    ]
    name: Annotated[
        FolderName | None,
        Field(
            description="The name of this folder in the log and in the archive, which no other "
            "folder may have. Default: the last part of its path.",
            examples=["loras"],
        ),
    ] = None
    existing: Annotated[
        Existing,
        Field(
            description="What to do with the files that are in the folder when lensd sees it for "
            "the first time. leave: nothing; `lensd once` can compress them later. compress: "
            "compress them like new files."
        ),
    ] = "leave"
    recursive: Annotated[bool, Field(description="Watch the folders inside it too.")] = True
    include: Annotated[
        Patterns,
        Field(
            min_length=1,
            description="Which files to process. A pattern is compared with the name of a file "
            "and with its path inside the watched folder; * stands for any characters, also for /.",
        ),
    ] = ("*.safetensors",)
    exclude: Annotated[
        Patterns,
        Field(
            description='Which files to ignore, e.g. ["*-draft.safetensors", "private"]. Patterns '
            "are as in `include`; a pattern that matches a folder excludes everything in it."
        ),
    ] = ()


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


class Worker(Part):
    """The process that computes. It starts with the first file, and ends when it is idle."""

    device: Annotated[
        Device,
        Field(
            description="auto, cpu, cuda, or cuda:N for the GPU with the number N. auto uses a GPU "
            "only for large files."
        ),
    ] = "auto"
    processes: Annotated[
        OneProcess,
        Field(
            description="How many files are computed at the same time. This version allows only 1."
        ),
    ] = 1
    idle_exit: Annotated[
        Seconds,
        Field(
            description="The process ends, and frees its memory, after this many seconds without "
            "work, 0 or more."
        ),
    ] = 300
    timeout: Annotated[
        PositiveSeconds,
        Field(
            description="The process is ended when one file takes longer than this, in seconds "
            "(more than 0). A file for which that happens twice is set aside; between the two, all "
            "others have their turn."
        ),
    ] = 1800
    nice: Annotated[
        int,
        Field(
            ge=0,
            le=19,
            description="By how much the process lowers its priority: 0 (not at all) to 19 (to "
            "the lowest). If it is not 0, other programs come first at the disks too.",
        ),
    ] = 10
    memory_limit: Annotated[
        MemoryLimit | None,
        Field(
            description="The process is ended when it takes more memory than this, e.g. 2GiB; at "
            "least 256MiB. A file for which that happens three times is set aside. auto: half of "
            "the memory of the machine (or of the container), and at least 1GiB. null: no limit."
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

    @property
    def hours(self) -> Window | None:
        """The schedule as a window; None without a schedule."""
        return None if self.schedule is None else parse(self.schedule)


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
            "discord://, ...); needs `pip install 'lensd[notify]'`. They contain passwords: let "
            "only lensd's user and group read this file.",
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
