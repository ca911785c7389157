"""The configuration as a person writes it: every key with its meaning, range and default."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from lensd.config.schedule import Window, parse
from lensd.config.types import (
    Allocation,
    Days,
    Device,
    Existing,
    FilePath,
    Float32,
    FolderName,
    Level,
    LogMode,
    MemoryLimit,
    Mode,
    OneProcess,
    Patterns,
    Schedule,
    Seconds,
    Size,
    SomeSeconds,
    Targets,
    TextFile,
)
from lensd.lora.parameters import Parameters


class Part(BaseModel):
    """A section: frozen, without unknown keys, and `"0.99"` is no number."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Settings(Part):
    """How the files of a folder are compressed."""

    mode: Annotated[
        Mode,
        Field(
            description="analyze: measure only, change nothing. rank: drop the ranks a file does "
            "not use. int8: store the weights in 8 bits. ultra: both, the smallest result."
        ),
    ] = "ultra"
    energy: Annotated[
        float,
        Field(
            gt=0,
            le=1,
            description="How much of each LoRA's effect is kept: 0.99 is 99 percent of the squared "
            "singular values. Lower is smaller, 1.0 keeps every rank that is used.",
        ),
    ] = 0.99
    allocation: Annotated[
        Allocation,
        Field(
            description="module: every module of a LoRA reaches `energy`. file: the LoRA as a "
            "whole does, which takes fewer bytes."
        ),
    ] = "module"
    target_size: Annotated[
        Size | None,
        Field(
            description="The size that every file should fit in, e.g. 32MB, with the most energy "
            "that fits; `energy` then does not count. Implies `allocation: file`. null: no target."
        ),
    ] = None
    max_rank: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Field(description="No module keeps more ranks than this. null: no limit."),
    ] = None
    constant_rank: Annotated[
        bool,
        Field(
            description="Give all modules of a file one rank. Only FLUX files for diffusers "
            "before 0.40 need it."
        ),
    ] = False
    float32: Annotated[
        Float32,
        Field(
            description="What becomes of 32-bit weights. auto: bfloat16 if every value is exactly "
            "that, else float16. float16 or bfloat16: always that. keep: stay 32-bit."
        ),
    ] = "auto"
    targets: Annotated[
        Targets,
        Field(
            description="The programs that must load the result: any of comfyui, comfyui-bypass, "
            "a1111, a1111-functional, forge, kohya, diffusers, invokeai, invokeai-sidecar, sdnext. "
            "Where one of them cannot read 8-bit weights, none are written."
        ),
    ] = ("comfyui", "a1111", "forge")
    max_error: Annotated[
        Annotated[float, Field(gt=0)] | None,
        Field(
            description="Keep the original when the measured relative error of the result is "
            "larger than this, e.g. 0.1. null: no limit."
        ),
    ] = None
    min_saving: Annotated[
        float,
        Field(
            ge=0,
            lt=1,
            description="Keep the original when the result is not smaller by at least this share: "
            "0.05 means 5 percent.",
        ),
    ] = 0.05
    preserve_mtime: Annotated[
        bool,
        Field(description="Keep the file's date, so that programs neither sort nor hash it anew."),
    ] = True

    def parameters(self) -> Parameters:
        """What the numerics need to know; the other settings are the daemon's."""
        return Parameters(
            mode=self.mode,
            energy=self.energy,
            allocation=self.allocation,
            target_size=self.target_size,
            max_rank=self.max_rank,
            constant_rank=self.constant_rank,
            float32=self.float32,
            targets=tuple(self.targets),
        )


class WatchEntry(Settings):
    """One watched folder; any key of `defaults` can be set here for this folder alone."""

    path: Annotated[
        FilePath,
        Field(
            description="The folder to watch. It may itself be a symbolic link; symbolic links "
            "inside it are left alone.",
            examples=["/srv/loras"],
        ),
    ]
    name: Annotated[
        FolderName | None,
        Field(
            description="What the log and the archive call this folder. Default: the last part of "
            "its path.",
            examples=["loras"],
        ),
    ] = None
    existing: Annotated[
        Existing,
        Field(
            description="What happens to the files that lie there when lensd first sees the "
            "folder. leave: nothing (`lensd once` compresses them when you want). compress: they "
            "are compressed like new ones."
        ),
    ] = "leave"
    recursive: Annotated[bool, Field(description="Watch the folders inside it as well.")] = True
    include: Annotated[
        Patterns,
        Field(
            min_length=1,
            description="Which files to look at. A pattern is matched with the file's name and "
            "with its path inside the watched folder; * stands for any characters, / too.",
        ),
    ] = ("*.safetensors",)
    exclude: Annotated[
        Patterns,
        Field(
            description='Which files to leave alone, e.g. ["*-draft.safetensors", "private"]. '
            "Patterns as in `include`; one that matches a folder leaves out all that is in it."
        ),
    ] = ()


class Archive(Part):
    """Where the originals are kept."""

    path: Annotated[
        FilePath,
        Field(
            description="The folder for the originals, in the same layout as the watched folders. "
            "Not inside a watched folder; on the same disk an original moves there without a copy."
        ),
    ] = "/srv/lora-archive"
    keep_days: Annotated[
        Days | None,
        Field(
            description="Delete an original this many days after its file was compressed, if the "
            "compressed file is then still there and undamaged: once a day, and by `lensd prune`. "
            "null: originals are kept until you delete them."
        ),
    ] = None


class State(Part):
    """Where lensd remembers what it did."""

    path: Annotated[
        FilePath,
        Field(description="The folder for the ledger, on a local disk; not in a watched folder."),
    ] = "/var/lib/lensd"


class Settle(Part):
    """When a file counts as complete."""

    quiet_seconds: Annotated[
        Seconds, Field(description="Nobody has written to the file for this long.")
    ] = 5
    unproven_seconds: Annotated[
        Seconds,
        Field(
            description="The same, where lensd cannot prove that no program still has the file "
            "open (network disks) or where the file has holes."
        ),
    ] = 60
    rescan_seconds: Annotated[
        SomeSeconds,
        Field(
            description="Look through the folders this often whose events cannot be relied on "
            "(network disks, too few watches). The others are looked through every 6 hours, so "
            "that disks may sleep."
        ),
    ] = 300


class Worker(Part):
    """The process that computes; it starts with the first file and leaves when idle."""

    device: Annotated[
        Device,
        Field(description="auto, cpu, cuda or cuda:N. auto takes the GPU only for large files."),
    ] = "auto"
    processes: Annotated[
        OneProcess, Field(description="How many files are computed at a time. Only 1 for now.")
    ] = 1
    idle_exit: Annotated[
        Seconds, Field(description="The process ends, and frees its memory, after idling so long.")
    ] = 300
    timeout: Annotated[
        SomeSeconds, Field(description="A file that takes longer than this counts as hung.")
    ] = 1800
    nice: Annotated[
        int,
        Field(
            ge=0,
            le=19,
            description="How readily the process gives way to others: 0 not at all, 19 the most. "
            "Unless it is 0, the disks serve others first, too.",
        ),
    ] = 10
    memory_limit: Annotated[
        MemoryLimit | None,
        Field(
            description="The process is ended when it takes more memory than this, e.g. 2GiB; a "
            "file that does so three times is set aside. null: no limit."
        ),
    ] = None
    schedule: Annotated[
        Schedule | None,
        Field(
            description='Compress only at this time of day, local time, e.g. "01:00-07:00"; it may '
            "go over midnight. A file that is under way at its end is finished. null: always."
        ),
    ] = None

    @property
    def hours(self) -> Window | None:
        """The schedule, understood."""
        return None if self.schedule is None else parse(self.schedule)


class Log(Part):
    """One JSON object a line."""

    path: Annotated[
        FilePath | None,
        Field(description="A log file, rotated at 10 MB. null: stdout (systemd's journal)."),
    ] = None
    level: Annotated[Level, Field(description="debug, info, warning or error.")] = "info"
    mode: Annotated[LogMode, Field(description="The log file's access rights, in quotes.")] = "0640"

    @property
    def mode_bits(self) -> int:
        return int(self.mode, 8)


class Metrics(Part):
    """Numbers for Prometheus."""

    textfile: Annotated[
        TextFile | None,
        Field(
            description="A file that node_exporter's textfile collector reads, e.g. "
            "/var/lib/prometheus/node-exporter/lensd.prom. It is written after each file and once "
            "a minute. null: none."
        ),
    ] = None


class Document(Part):
    """The whole file."""

    watch: Annotated[
        tuple[WatchEntry, ...],
        Field(strict=False, min_length=1, description="The folders to watch: one or more."),
    ]
    defaults: Annotated[Settings, Field(description="What holds for every watched folder.")] = (
        Settings()
    )
    archive: Annotated[Archive, Field(description=Archive.__doc__)] = Archive()
    state: Annotated[State, Field(description=State.__doc__)] = State()
    settle: Annotated[Settle, Field(description=Settle.__doc__)] = Settle()
    worker: Annotated[Worker, Field(description=Worker.__doc__)] = Worker()
    log: Annotated[Log, Field(description=Log.__doc__)] = Log()
    metrics: Annotated[Metrics, Field(description=Metrics.__doc__)] = Metrics()
