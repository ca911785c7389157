"""The schema of the log's lines."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from lensd.errors import DegradedReason, Reason
from lensd.logs.events import AnyEvent
from lensd.report import schema
from tests.docs.rendering import LOG_SCHEMA, log_schema_text

CONTRACT = [
    "daemon.started",
    "daemon.ready",
    "daemon.baseline",
    "daemon.clock",
    "daemon.degraded",
    "daemon.rebuilt",
    "daemon.recovered",
    "daemon.reloaded",
    "daemon.refused",
    "daemon.error",
    "daemon.paused",
    "daemon.resumed",
    "daemon.pruned",
    "daemon.stopping",
    "file.deleted",
    "file.detected",
    "file.settled",
    "file.compressed",
    "file.analyzed",
    "file.kept",
    "file.skipped",
    "file.postponed",
    "file.failed",
    "file.quarantined",
    "file.restored",
    "file.moved",
    "file.rescued",
    "file.pruned",
    "worker.started",
    "worker.stopped",
    "worker.crashed",
]

SHA = "0" * 64
RANKS = {"min": 1, "median": 7.5, "max": 16}
FILE = {"path": "/srv/loras/a.safetensors", "watch": "loras", "job_id": "7f3a"}
END = {**FILE, "reason": "no_gain", "message": "cause; remedy"}
MEASURES = {
    "family": "sd15",
    "naming": "kohya",
    "dtype_in": "float16",
    "bytes_in": 151_000_000,
    "modules": 264,
    "rank_in": RANKS,
    "rank_out": RANKS,
    "energy_retained": {"min": 0.99, "overall": 0.995},
    "seconds": dict.fromkeys(
        ("wait", "read", "compute", "write", "verify", "archive", "total"), 0.5
    ),
    "device": "cpu",
    "sha256_in": SHA,
}
OUTCOME = {"dtype_out": "int8", "bytes_out": 15_000_000, "ratio": 10.1}
ERRORS = {"delta_error": 0.07, "delta_error_max": 0.09}
QUANTIZATION = {"snr_db": 38.5, "mse": 1e-6, "mae": None, "delta_snr_db": None}
COMPRESSED = {
    **FILE,
    **MEASURES,
    **OUTCOME,
    **ERRORS,
    **QUANTIZATION,
    "mode": "ultra",
    "archive_method": "link",
    "archive_path": "/srv/lora-archive/loras/a.safetensors",
    "sha256_out": SHA,
}
ANALYZED = {
    **FILE,
    **MEASURES,
    "mode": "analyze",
    "predicted": {"rank": 30_000_000, "int8": 75_000_000, "ultra": 15_000_000},
}
DEGRADED = {"watch": "loras", "path": "/srv/loras", "reason": "unmounted", "message": "x"}

LINES: dict[str, dict[str, Any]] = {
    "daemon.started": {"version": "0.1.0", "pid": 1, "config": "/etc/lensd/config.yaml"},
    "daemon.ready": {"watches": ["loras"], "queued": 0, "seconds": 0.2},
    "daemon.baseline": {
        "watch": "loras",
        "path": "/srv/loras",
        "files": 3,
        "bytes": 9,
        "symlinked_folders": ["/srv/loras/flux"],
    },
    "daemon.clock": {"seconds": 34_560_000.0, "message": "x"},
    "daemon.degraded": DEGRADED,
    "daemon.recovered": {**DEGRADED, "watch": None},
    "daemon.reloaded": {"config": "/etc/lensd/config.yaml"},
    "daemon.refused": {"config": "/etc/lensd/config.yaml", "message": "x"},
    "daemon.error": {"request": "restore", "message": "x", "exception": "Traceback"},
    "daemon.paused": {"paths": ["/srv/loras"]},
    "daemon.resumed": {"paths": []},
    "daemon.pruned": {"files": 2, "bytes": 9, "kept": 1, "message": "x"},
    "daemon.stopping": {"signal": "SIGTERM"},
    "worker.started": {
        "pid": 2,
        "device": "cpu",
        "torch": "2.13.0",
        "kernels": "native avx2",
        "seconds": 1.5,
        "processes": 2,
    },
    "worker.stopped": {"pid": 2, "reason": "idle"},
    "worker.crashed": {"pid": 2, "exit": -9, "job_id": "7f3a", "message": "x"},
    "file.detected": {**FILE, "job_id": None, "bytes": 9},
    "file.deleted": {**FILE, "what": "file", "bytes": 9, "message": "a was deleted by hand"},
    "file.settled": {**FILE, "bytes": 9, "wait": 5.1},
    "file.compressed": COMPRESSED,
    "file.analyzed": ANALYZED,
    "file.kept": {**END, "delta_error": 0.3, "bytes_in": 9, "sha256_in": SHA},
    "file.skipped": {**END, "job_id": None},
    "file.postponed": {**END, "reason": "io_error", "retry_seconds": 10},
    "file.failed": {**END, "attempts": 2},
    "file.quarantined": {**END, "attempts": 3},
    "file.restored": {**FILE, "sha256": SHA, "method": "move", "bytes": 9},
    "daemon.rebuilt": {
        "watch": "loras",
        "files": 2,
        "bytes": 10,
        "originals": 1,
        "message": "x",
    },
    "file.moved": {**FILE, "job_id": "a", "from_path": "/srv/loras/old.safetensors"},
    "file.rescued": {**FILE, "rescued_path": "/srv/lora-archive/rescued/a", "message": "x"},
    "file.pruned": {**FILE, "sha256": SHA, "bytes": 9, "archive_path": "/srv/lora-archive/loras/a"},
}

# What the lines above carry beyond what is asked for.
OPTIONAL = {
    "file.kept": {"delta_error", "bytes_in", "sha256_in"},
    "file.failed": {"attempts"},
    "file.quarantined": {"attempts"},
    "worker.started": {"kernels", "processes"},
}


def line(event: str) -> dict[str, Any]:
    head = {"timestamp": "2026-11-24T13:22:26.859857Z", "level": "info", "event": event}
    return {**head, "schema": 1, **copy.deepcopy(LINES[event])}


def is_valid(candidate: dict[str, Any]) -> bool:
    """Valid under the whole schema; that of the event alone must say the same."""
    whole = Draft202012Validator(schema.load()).is_valid(candidate)
    if candidate.get("event") in schema.events():
        alone = Draft202012Validator(schema.of_event(candidate["event"])).is_valid(candidate)
        assert whole == alone
    return whole


def test_it_is_a_json_schema() -> None:
    """Of draft 2020-12."""
    Draft202012Validator.check_schema(schema.load())


def test_events_are_those_of_the_contract() -> None:
    """None is missing, none is extra."""
    assert sorted(schema.events()) == sorted(CONTRACT)


def test_the_file_in_the_package_is_made_from_the_types() -> None:
    """`python -m tests.docs.rendering` writes it."""
    assert log_schema_text() == LOG_SCHEMA.read_text(encoding="utf-8")


def test_every_reason_is_valid() -> None:
    """Each reason code of `lensd.errors`, and no other."""
    definitions = schema.load()["$defs"]
    assert definitions["reason"]["enum"] == sorted(Reason)
    assert definitions["degraded_reason"]["enum"] == sorted(DegradedReason)


@pytest.mark.parametrize("event", CONTRACT)
def test_a_line_is_read_as_the_event_that_it_was(event: str) -> None:
    """A reader may use the types: they take every valid line and give its fields again."""
    fields = LINES[event]
    found = msgspec.convert({"event": event, **fields}, AnyEvent)
    assert {"event": event, **fields} == msgspec.to_builtins(found)


def test_an_unknown_event_has_no_schema() -> None:
    """Asking for it raises; a line of it is invalid."""
    with pytest.raises(KeyError):
        schema.of_event("file.eaten")
    assert not is_valid({**line("file.kept"), "event": "file.eaten"})


@pytest.mark.parametrize("event", CONTRACT)
def test_a_complete_line_is_valid(event: str) -> None:
    """With nothing but what is asked for."""
    Draft202012Validator(schema.of_event(event)).validate(line(event))
    assert is_valid(line(event))


@pytest.mark.parametrize("event", CONTRACT)
def test_a_stray_field_is_invalid(event: str) -> None:
    """What is not declared is caught."""
    assert not is_valid({**line(event), "stray": 1})


@pytest.mark.parametrize("event", CONTRACT)
def test_no_required_field_may_be_left_out(event: str) -> None:
    """Every field that the contract names must be there."""
    for field in set(line(event)) - OPTIONAL.get(event, set()):
        rest = line(event)
        del rest[field]
        assert not is_valid(rest), field


@pytest.mark.parametrize(
    ("event", "field", "value"),
    [
        ("file.kept", "reason", "bored"),
        ("file.kept", "message", ""),
        ("file.kept", "timestamp", "2026-11-24 13:22:26"),
        ("file.kept", "level", "loud"),
        ("file.kept", "schema", 2),
        ("file.settled", "job_id", None),
        ("file.settled", "bytes", 1.5),
        ("file.compressed", "mode", "analyze"),
        ("file.compressed", "sha256_out", "abc"),
        ("file.compressed", "delta_error", None),
        ("file.compressed", "archive_method", "magic"),
        ("file.compressed", "rank_out", {"min": 1, "max": 2}),
        ("file.compressed", "energy_retained", 0.99),
        ("file.compressed", "recovered", "yes"),
        ("file.analyzed", "predicted", {"rank": 1}),
        ("daemon.baseline", "symlinked_folders", 3),
        ("worker.crashed", "exit", "SIGKILL"),
        ("daemon.degraded", "reason", "bored"),
        ("daemon.ready", "exception", "x"),
    ],
)
def test_wrong_values_are_invalid(event: str, field: str, value: object) -> None:
    """Types, codes and ranges hold."""
    assert not is_valid({**line(event), field: value})


def test_a_compressed_file_has_all_its_seconds() -> None:
    """An analysis writes and archives nothing; a compression does."""
    for event, expected in (("file.compressed", False), ("file.analyzed", True)):
        short = line(event)
        del short["seconds"]["archive"]
        assert expected == is_valid(short)


def test_declared_additions_are_valid() -> None:
    """What a line may carry besides."""
    assert is_valid(
        {
            **line("file.compressed"),
            "recovered": True,
            "data_sha256_in": SHA,
            "data_sha256_out": SHA,
            "publish": "exchange",
            "lease": True,
            "encodings": {"int8": 260, "float": 2, "untouched": 2},
            "forced_by": ["diffusers"],
            "path_b64": "L2E=",
            "archive_path_b64": "L2E=",
            "message": "CUDA ran out of memory: computed on the CPU",
        }
    )
