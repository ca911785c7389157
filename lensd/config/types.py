"""Types of the values of keys. Their validators raise faults with a message and a remedy."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from lensd.config import schedule
from lensd.config.faults import show_value
from lensd.config.sizes import PATTERN, parse_size
from lensd.lora.portability import Encoding, Program

Mode = Literal["analyze", "rank", "int8", "ultra"]
Allocation = Literal["module", "file", "balanced"]
Float32 = Literal["auto", "float16", "bfloat16", "keep"]
Existing = Literal["leave", "compress"]
Level = Literal["debug", "info", "warning", "error"]
Occasion = Literal["failed", "quarantined", "degraded", "disk_full", "weekly"]


def invalid(message: str, remedy: str) -> PydanticCustomError:
    """Return the error that a validator raises; messages.explain reads message and remedy."""
    context = {"message": message, "remedy": remedy}
    return PydanticCustomError("lensd_fault", "{message}", context)


def _make_absolute(text: str, info: ValidationInfo) -> str:
    """Expand `~`, and make a relative path absolute from the folder of the configuration file."""
    if not text.strip() or "\0" in text:
        raise invalid("the path is empty", "write a path, e.g. /srv/loras")
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        user = expanded.split("/")[0][1:]
        raise invalid(f"there is no user {user!r}", "write the path without ~")
    base = (info.context or {}).get("folder", os.getcwd())
    return os.path.join(base, expanded).rstrip("/") or "/"


def _parse_size(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return parse_size(value)
    except ValueError as error:
        raise invalid(str(error), "MB is 1000 * 1000 bytes, MiB is 1024 * 1024 bytes") from None


def _check_pattern(text: str) -> str:
    if text.startswith(("/", "~", "./", "../")):
        remedy = 'write it relative to the watched folder, e.g. "drafts/*" or "*.safetensors"'
        raise invalid(f"the pattern {text!r} can never match", remedy)
    return text


def _check_log_mode(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"0?[67][0-7]{2}", value):
        return value
    remedy = (
        "write three digits as for chmod, in quotes, the first of them 6 or 7 so that lensd can "
        'read and write the file, e.g. mode: "0640"'
    )
    raise invalid(f"{show_value(value)} is not a file mode for a log", remedy)


def is_device(value: Any) -> bool:
    """Whether a value is a setting of `worker.device`."""
    return isinstance(value, str) and bool(re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", value))


def _check_device(value: Any) -> Any:
    if is_device(value):
        return value
    raise invalid(f"{show_value(value)} is not a device", "write auto, cpu, cuda or cuda:N")


def _check_name(name: str) -> str:
    """Check that a name can be a folder in the archive, beside the archive's own folders."""
    if not name or "/" in name or name.startswith(".") or not name.isprintable():
        raise invalid(f"{name!r} cannot be the name of a folder in the archive", NAME_REMEDY)
    if name == "rescued":
        raise invalid("the archive itself has a folder 'rescued'", NAME_REMEDY)
    if len(name.encode("utf-8", "surrogateescape")) > 255:
        raise invalid("the name is longer than 255 bytes", NAME_REMEDY)
    return name


def _check_memory_limit(value: Any) -> Any:
    if value == "auto":
        return value
    size = _parse_size(value)
    remedy = "write 256MiB or more, e.g. 2GiB, or auto; or null for no limit"
    if isinstance(size, bool) or not isinstance(size, int):
        raise invalid(f"{show_value(size)} is not a size", remedy)
    if size < SMALLEST_MEMORY_LIMIT:
        message = f"{size} bytes are too few: the worker needs about {TORCH_MEMORY} for torch alone"
        raise invalid(message, remedy)
    return size


def _check_schedule(value: Any) -> Any:
    remedy = 'write local times in quotes, e.g. schedule: "01:00-07:00"; null means always'
    if not isinstance(value, str):
        raise invalid(f"{show_value(value)} is not a time of day from HH:MM to HH:MM", remedy)
    try:
        schedule.parse(value)
    except ValueError as error:
        raise invalid(str(error), remedy) from None
    return value


def _check_textfile(path: str) -> str:
    if not path.endswith(".prom"):
        remedy = "write a name in .prom, e.g. /var/lib/prometheus/node-exporter/lensd.prom"
        raise invalid("node_exporter reads only files whose names end in .prom", remedy)
    return path


def _check_urls(value: Any) -> Any:
    """Check the form only, and never show a value: it contains passwords."""
    urls = value if isinstance(value, list | tuple) else ()
    if (not urls and value != []) or not all(isinstance(u, str) and "://" in u for u in urls):
        remedy = "write a list of addresses as apprise has them, each in quotes and with ://"
        raise invalid("the value is not a list of addresses (it is not shown: secret)", remedy)
    return tuple(map(SecretStr, urls))


def _check_cluster(value: Any) -> Any:
    found = re.fullmatch(r"(tcp|tls)://.+:[0-9]{1,5}", value) if isinstance(value, str) else None
    if found is None:
        remedy = "write tls://HOST:PORT, or tcp://HOST:PORT for a scheduler on this machine"
        raise invalid(f"{show_value(value)} is not the address of a Dask scheduler", remedy)
    return value


TORCH_MEMORY = "150 MiB"
SMALLEST_MEMORY_LIMIT = 256 << 20
NAME_REMEDY = "write a name without a leading dot and without '/', e.g. `name: loras`"

FolderName = Annotated[str, AfterValidator(_check_name)]
FilePath = Annotated[str, AfterValidator(_make_absolute)]
_SIZE_SCHEMA: tuple[dict[str, Any], ...] = (
    {"type": "integer", "exclusiveMinimum": 0},
    {"type": "string", "pattern": PATTERN},
)
Size = Annotated[
    int,
    BeforeValidator(_parse_size),
    Field(gt=0),
    WithJsonSchema({"anyOf": [*_SIZE_SCHEMA]}),
]
MemoryLimit = Annotated[
    int | Literal["auto"],
    BeforeValidator(_check_memory_limit),
    WithJsonSchema({"anyOf": [{"const": "auto"}, *_SIZE_SCHEMA]}),
]
Schedule = Annotated[
    str, BeforeValidator(_check_schedule), Field(json_schema_extra={"pattern": schedule.PATTERN})
]
Days = Annotated[int, Field(ge=1)]
Patterns = Annotated[
    tuple[Annotated[str, Field(min_length=1), AfterValidator(_check_pattern)], ...],
    Field(strict=False),
]
Targets = Annotated[tuple[Program, ...], Field(strict=False, min_length=1)]
Encodings = Annotated[tuple[Encoding, ...], Field(strict=False, min_length=1)]
Device = Annotated[
    str,
    BeforeValidator(_check_device),
    Field(json_schema_extra={"pattern": "^(auto|cpu|cuda(:[0-9]+)?)$"}),
]
LogMode = Annotated[
    str, BeforeValidator(_check_log_mode), Field(json_schema_extra={"pattern": "^0?[67][0-7]{2}$"})
]
TextFile = Annotated[
    FilePath, AfterValidator(_check_textfile), Field(json_schema_extra={"pattern": r"\.prom$"})
]
Urls = Annotated[
    tuple[SecretStr, ...],
    BeforeValidator(_check_urls),
    WithJsonSchema({"type": "array", "items": {"type": "string", "pattern": "://"}}),
]
Command = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False, min_length=1)
]
Occasions = Annotated[tuple[Occasion, ...], Field(strict=False)]
ClusterAddress = Annotated[
    str,
    BeforeValidator(_check_cluster),
    Field(json_schema_extra={"pattern": "^(tcp|tls)://.+:[0-9]+$"}),
]
ClusterPaths = Literal["staged", "shared"]
ClusterFallback = Literal["wait", "local"]
Seconds = Annotated[float, Field(ge=0)]
PositiveSeconds = Annotated[float, Field(gt=0)]
