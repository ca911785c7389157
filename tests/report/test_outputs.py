"""The JSON Schemas of the `--json` outputs.

Every test that runs a command with `--json` validates the real output (tests.support.outputs).
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import click
import pytest
from jsonschema import Draft202012Validator

from lensd.cli import COMMANDS, main
from lensd.report import schema
from tests.cli.conftest import Run
from tests.cli.conftest import lensd as lensd  # noqa: PLC0414  a fixture
from tests.support import outputs

SHA = "0" * 64
JOB = {"job_id": "a", "path": "/l/a", "watch": "l", "bytes": 1, "attempts": 0}
TIME = "2026-11-25T12:00:00+00:00"
HASHES = {
    "original": SHA,
    "original_autov2": SHA[:10],
    "original_autov3": None,
    "output": None,
    "output_autov2": None,
    "output_autov3": SHA[:12],
    "path": "/l/a",
}
RANKS = {"min": 1, "median": 7.5, "max": 16}
MEASURES = {
    "family": "sd15",
    "naming": "kohya",
    "dtype_in": "F16",
    "dtype_out": "I8",
    "bytes_in": 100,
    "modules": 1,
    "rank_in": RANKS,
    "rank_out": RANKS,
    "blocks": {"down_blocks": [[0, 1, 16, 7.5]], "mid_block": [[None, 1, 16, 7.5]]},
    "spectrum": {"ranks": [1], "energy": [0.5]},
    "energy_retained": {"min": 0.99, "overall": 0.99},
    "seconds": {"read": 0.1, "compute": 0.1, "write": 0.0, "verify": 0.0},
    "device": "cpu",
    "device_note": "there is no cuda here; computed on the CPU",
    "sha256_in": SHA,
    "delta_error": 0.1,
    "delta_error_max": 0.1,
    "path": "a.safetensors",
}
# Documents with all fields, also the optional ones.
PROBLEM = {"outcome": "failed", "when": 1.5, "reason": "io_error", "message": "x"}
FILESYSTEM = {
    "point": "/l",
    "kind": "fuse.mergerfs",
    "commits_by": "link",
    "enforces_leases": False,
    "unknown_because": "x",
    "grants_leases": True,
    "exchange": False,
    "exchange_sets_ctime": None,
    "rename_noreplace": False,
    "hard_links": True,
    "folder_fsync": True,
    "case_sensitive": True,
    "stable_inodes": True,
    "wide_inodes": True,
    "ctime_resolution_ns": 1,
}
COMPLETE: dict[str, dict[str, Any]] = {
    "status": {
        "daemon": 1,
        "watch": [{"name": "l", "path": "/l", "mode": "ultra"}],
        "degraded": [
            {"watch": "l", "path": "/l", "reason": "missing", "message": "x", "since": 1.5}
        ],
        "running": [JOB],
        "queued": [JOB],
        "waiting": [{"path": "/l/b", "watch": "l", "reason": "x", "since": 1.5}],
        "problems": [{**JOB, **PROBLEM}],
        "uncompressed": [{**JOB, **PROBLEM}],
        "paused": ["everything"],
        "held": "/l: x",
        "schedule": {"window": "01:00-07:00", "open": False},
        "totals": {"outcomes": {"kept": 1}, "saved_in_folders": 1, "held_by_archive": 2, "net": -1},
        "filesystems": [FILESYSTEM],
        "hashes": [HASHES],
    },
    "report": {
        "schema": 1,
        "version": "0",
        "made": TIME,
        "source": {
            "kind": "log",
            "logs": ["lensd.log"],
            "lines": 1,
            "foreign": 0,
            "cut": 0,
            "repeated": 0,
            "unreadable": ["x"],
        },
        "period": {"since": None, "until": None, "first": TIME, "last": TIME},
        "outcomes": {"kept": 1},
        "bytes": {
            "before": 2,
            "after": 1,
            "saved_in_folders": 1,
            "held_by_archive": 2,
            "net": -1,
        },
        "unknown": ["x"],
        "ratios": [
            {
                "family": "sd15",
                "mode": "ultra",
                "files": 1,
                "bytes_in": 2,
                "bytes_out": 1,
                "ratio": 2.0,
                "ratio_median": 2.0,
                "delta_error_median": None,
            }
        ],
        "delta_error": {
            "files": 1,
            "min": 0.1,
            "p10": 0.1,
            "p50": 0.1,
            "p90": 0.1,
            "p99": 0.1,
            "max": 0.1,
        },
        "reasons": [{"outcome": "kept", "reason": "no_gain", "files": 1, "meaning": "x"}],
        "failures": [
            {
                "path": "/l/a",
                "watch": "l",
                "outcome": "failed",
                "when": TIME,
                "reason": None,
                "message": None,
            }
        ],
        "uncompressed": [
            {
                "path": "/l/a",
                "watch": "l",
                "outcome": "kept",
                "when": TIME,
                "reason": None,
                "message": None,
            }
        ],
        "slowest": [{"path": "/l/a", "seconds": 0.1, "bytes_in": None}],
        "days": [{"day": "2026-11-25", "files": 1, "saved": 1}],
        "hashes": [HASHES],
    },
    "verify": {
        "faults": 1,
        "bytes": 1,
        "files": [
            {
                "kind": "output",
                "state": "gone",
                "path": "/l/a",
                "of": "/l/a",
                "watch": "l",
                "sha256": None,
                "bytes": 0,
                "message": None,
            }
        ],
    },
    "analyze": {
        **MEASURES,
        "predicted": {"rank": 1, "int8": 1, "ultra": 1},
        "details": [
            {
                "module": "m",
                "out": 1,
                "in": 1,
                "rank": 1,
                "bytes": 1,
                "alpha": 1.0,
                "norm": 0.0,
                "ranks": {"0.9": 1},
                "spectrum": [0.5],
            }
        ],
    },
    "compress": {
        **MEASURES,
        "snr_db": 38.5,
        "mse": 1e-6,
        "mae": None,
        "delta_snr_db": None,
        "output": "b.safetensors",
        "mode": "ultra",
        "bytes_out": 1,
        "sha256_out": SHA,
        "data_sha256_out": SHA,
    },
    "compare": {
        "a": "a",
        "b": "b",
        "modules": 1,
        "delta_error": None,
        "snr_db": None,
        "delta_error_common": 0.0,
        "only_in_a": ["m"],
        "only_in_b": [],
        "per_module": [
            {
                "module": "m",
                "module_b": "m",
                "rank_a": 1,
                "rank_b": 1,
                "delta_error": 0.5,
                "snr_db": 6.0,
            }
        ],
    },
}
# Optional fields of a document.
OPTIONAL = {
    ("status", "hashes"),
    ("analyze", "spectrum"),
    *((verb, "device_note") for verb in ("analyze", "compress")),
    *(("compress", name) for name in ("blocks", "spectrum")),
    *((verb, "seconds", n) for verb in ("analyze", "compress") for n in ("write", "verify")),
}


def _objects(part: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every object in a document, with its path."""
    if isinstance(part, dict):
        yield at, part
        for name, inner in part.items():
            yield from _objects(inner, (*at, name))
    if isinstance(part, list):
        for inner in part:
            yield from _objects(inner, at)


def test_every_command_with_json_has_a_schema() -> None:
    """There are no other schemas."""
    context = click.Context(main)
    commands = {verb: main.get_command(context, verb) for verb in COMMANDS}
    with_json = {
        verb
        for verb, command in commands.items()
        if command and any("--json" in p.opts for p in command.params)
    }
    assert with_json == set(schema.OUTPUTS) == set(COMPLETE)


@pytest.mark.parametrize("verb", schema.OUTPUTS)
def test_a_schema_is_complete(verb: str) -> None:
    """It is a JSON Schema of draft 2020-12 and contains everything that it refers to."""
    found = schema.of_output(verb)
    Draft202012Validator.check_schema(found)
    references = re.findall(r'"#/\$defs/(\w+)"', json.dumps(found))
    assert set(references) == set(found["$defs"])
    outputs.validator(verb).validate(COMPLETE[verb])


@pytest.mark.parametrize("verb", schema.OUTPUTS)
def test_an_unknown_field_is_invalid(verb: str) -> None:
    """In every object of the document, except tables whose keys are data."""
    tables = {("outcomes",), ("ranks",), ("blocks",)}
    for at, _ in _objects(COMPLETE[verb]):
        broken = copy.deepcopy(COMPLETE[verb])
        for place, part in _objects(broken):
            if place == at:
                part["stray"] = 1
        assert at[-1:] in tables or not outputs.validator(verb).is_valid(broken), at


@pytest.mark.parametrize("verb", schema.OUTPUTS)
def test_fields_are_required(verb: str) -> None:
    """All fields except the optional ones."""
    for at, fields in _objects(COMPLETE[verb]):
        for name in set(fields) - {"kept", "0.9", "down_blocks", "mid_block"}:
            broken = copy.deepcopy(COMPLETE[verb])
            for place, part in _objects(broken):
                if place == at:
                    part.pop(name, None)
            optional = (verb, *at, name) in OPTIONAL
            assert outputs.validator(verb).is_valid(broken) == optional, (*at, name)


@pytest.mark.parametrize("name", ["log", *schema.OUTPUTS])
def test_a_command_prints_the_schemas(lensd: Run, name: str) -> None:
    """`lensd schema NAME` prints the same schema."""
    done = lensd("schema", name)
    assert (done.returncode, done.stderr) == (0, "")
    expected = schema.load() if name == "log" else schema.of_output(name)
    assert json.loads(done.stdout) == expected


def test_an_unknown_name_has_no_schema(lensd: Run) -> None:
    """The usage error lists the names."""
    with pytest.raises(KeyError):
        schema.of_output("run")
    done = lensd("schema", "run")
    assert done.returncode == 2
    assert "'status'" in done.stderr
