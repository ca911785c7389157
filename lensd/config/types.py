"""The kinds of value a key can take: strict, and each with the remedy for what people write."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, WithJsonSchema
from pydantic_core import PydanticCustomError

from lensd import __version__
from lensd.config import schedule
from lensd.config.sizes import PATTERN, parse_size
from lensd.lora.portability import Program

Mode = Literal["analyze", "rank", "int8", "ultra"]
Allocation = Literal["module", "file"]
Float32 = Literal["auto", "float16", "bfloat16", "keep"]
Existing = Literal["leave", "compress"]
Level = Literal["debug", "info", "warning", "error"]


def fault(message: str, remedy: str) -> PydanticCustomError:
    """What a validator raises; `explain` takes message and remedy apart again."""
    context = {"message": message, "remedy": remedy}
    return PydanticCustomError("lensd_fault", "{message}", context)


def _path(text: str, info: ValidationInfo) -> str:
    """Expand `~`, and take a relative path from the configuration file's folder."""
    if not text.strip() or "\0" in text:
        raise fault("the path is empty", "write a path, e.g. /srv/loras")
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        raise fault(f"there is no user {expanded.split('/')[0][1:]!r}", "write the path out")
    base = (info.context or {}).get("folder", os.getcwd())
    return os.path.join(base, expanded).rstrip("/") or "/"


def _size(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return parse_size(value)
    except ValueError as error:
        raise fault(str(error), "MB is 1000 * 1000 bytes, MiB is 1024 * 1024 bytes") from None


def _pattern(text: str) -> str:
    if text.startswith(("/", "~", "./", "../")):
        remedy = 'write it relative to the watched folder, e.g. "drafts/*" or "*.safetensors"'
        raise fault(f"the pattern {text!r} can never match", remedy)
    return text


def _log_mode(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"0?[67][0-7]{2}", value):
        return value
    remedy = 'write it in quotes, as chmod takes it and readable by its owner, e.g. mode: "0640"'
    raise fault(f"{_shown(value)} is not a file mode", remedy)


def _device(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", value):
        return value
    raise fault(f"{_shown(value)} is not a device", "write auto, cpu, cuda or cuda:N")


def _name(name: str) -> str:
    """A name is a folder's name in the archive, beside the archive's own folders."""
    if not name or "/" in name or name.startswith(".") or not name.isprintable():
        raise fault(f"{name!r} cannot be a folder's name in the archive", NAME_REMEDY)
    if name == "rescued":
        raise fault("'rescued' is a folder of the archive itself", NAME_REMEDY)
    if len(name.encode("utf-8", "surrogateescape")) > 255:
        raise fault("the name is longer than 255 bytes", NAME_REMEDY)
    return name


def _memory(size: int) -> int:
    if size < SMALLEST_WORKER:
        message = f"{size} bytes are too few: the worker takes about {TORCH_ALONE} for torch alone"
        raise fault(message, "write 256MiB or more, e.g. 2GiB; or null for no limit")
    return size


def _schedule(value: Any) -> Any:
    remedy = 'write local times in quotes, e.g. schedule: "01:00-07:00"; null means always'
    if not isinstance(value, str):
        raise fault(f"{_shown(value)} is not a time of day from HH:MM to HH:MM", remedy)
    try:
        schedule.parse(value)
    except ValueError as error:
        raise fault(str(error), remedy) from None
    return value


def _textfile(path: str) -> str:
    if not path.endswith(".prom"):
        remedy = "let the name end in .prom, e.g. /var/lib/prometheus/node-exporter/lensd.prom"
        raise fault("node_exporter reads files whose names end in .prom only", remedy)
    return path


def _one(value: Any) -> Any:
    if isinstance(value, int) and value > 1:
        message = f"more than one process is not available in lensd {__version__}"
        raise fault(message, "remove the line, or write processes: 1")
    return value


def _shown(value: Any) -> str:
    return "null" if value is None else repr(value)


TORCH_ALONE = "150 MiB"
SMALLEST_WORKER = 256 << 20
NAME_REMEDY = "give a name without a leading dot and without '/', e.g. `name: loras`"

FolderName = Annotated[str, AfterValidator(_name)]
FilePath = Annotated[str, AfterValidator(_path)]
Size = Annotated[
    int,
    BeforeValidator(_size),
    Field(gt=0),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "exclusiveMinimum": 0},
                {"type": "string", "pattern": PATTERN},
            ]
        }
    ),
]
MemoryLimit = Annotated[Size, AfterValidator(_memory)]
Schedule = Annotated[
    str, BeforeValidator(_schedule), Field(json_schema_extra={"pattern": schedule.PATTERN})
]
Days = Annotated[int, Field(ge=1)]
Patterns = Annotated[
    tuple[Annotated[str, Field(min_length=1), AfterValidator(_pattern)], ...], Field(strict=False)
]
Targets = Annotated[tuple[Program, ...], Field(strict=False, min_length=1)]
Device = Annotated[
    str,
    BeforeValidator(_device),
    Field(json_schema_extra={"pattern": "^(auto|cpu|cuda(:[0-9]+)?)$"}),
]
LogMode = Annotated[
    str, BeforeValidator(_log_mode), Field(json_schema_extra={"pattern": "^0?[67][0-7]{2}$"})
]
TextFile = Annotated[
    FilePath, AfterValidator(_textfile), Field(json_schema_extra={"pattern": r"\.prom$"})
]
OneProcess = Annotated[int, BeforeValidator(_one), Field(ge=1, json_schema_extra={"maximum": 1})]
Seconds = Annotated[float, Field(ge=0)]
SomeSeconds = Annotated[float, Field(gt=0)]
