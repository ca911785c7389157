"""The settings of watched folders: the section `defaults`, and an entry of `watch`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lensd.config.part import Part
from lensd.config.types import (
    Allocation,
    Encodings,
    Existing,
    FilePath,
    Float32,
    FolderName,
    Mode,
    Patterns,
    Size,
    Targets,
)
from lensd.lora.parameters import Parameters
from lensd.lora.portability import DEFAULT_TARGETS, ENCODINGS, PROGRAMS


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
