"""lensd.config.example: the example and the JSON Schema agree with what is read."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from lensd.config.document import Document
from lensd.config.example import SCHEMA_FILE, example, schema
from lensd.config.model import Config
from lensd.config.settings import Settings, WatchEntry

Read = Callable[[str], Config]

REPOSITORY = Path(__file__).resolve().parents[2]
OUTSIDE = pytest.mark.skipif(
    not (REPOSITORY / "pyproject.toml").is_file(), reason="not in the source tree"
)


@OUTSIDE
def test_the_file_in_the_tree_is_the_example() -> None:
    """config.example.yaml is the output of `lensd config example`."""
    assert (REPOSITORY / "config.example.yaml").read_text(encoding="utf-8") == example()


def test_the_example_loads_and_is_the_defaults(read: Read) -> None:
    """Its values are those of keys that are left out."""
    written = read(example()).model_dump(exclude={"lines", "source"})
    left_out = read("watch: [{path: /srv/loras}]").model_dump(exclude={"lines", "source"})
    assert left_out == written


def test_every_key_is_in_the_example_under_a_comment() -> None:
    """The comment above each key explains it."""
    document = yaml.safe_load(example())
    assert list(document) == list(Document.model_fields)
    assert set(document["watch"][0]) == set(WatchEntry.model_fields) - set(Settings.model_fields)
    for name, section in document.items():
        if name != "watch":
            assert list(section) == list(Document.model_fields[name].get_default().model_dump())
    lines = example().splitlines()
    for above, line in pairwise(lines):
        if ":" in line and not line.lstrip().startswith("#"):
            assert above.lstrip().startswith("#") or above.endswith(":"), line


def test_the_schema_is_valid_and_takes_the_example() -> None:
    """It is a JSON Schema of draft 2020-12, by which the example has no fault."""
    Draft202012Validator.check_schema(schema())
    Draft202012Validator(schema()).validate(yaml.safe_load(example()))


@pytest.mark.parametrize(
    "text",
    [
        "watch: []",
        "watch: [{name: x}]",
        "watch: [{path: /a, enrgy: 1}]",
        "watch: [{path: /a, energy: 1.5}]",
        "watch: [{path: /a, energy: '0.9'}]",
        "{watch: [{path: /a}], worker: {processes: -1}}",
        "{watch: [{path: /a}], worker: {schedule: x}}",
        "{watch: [{path: /a}], worker: {device: gpu}}",
        "{watch: [{path: /a}], defaults: {target_size: much}}",
        "{watch: [{path: /a}], defaults: {targets: [comfy]}}",
        "{watch: [{path: /a}], defaults: {encodings: [int4]}}",
        "{watch: [{path: /a}], log: {mode: 416}}",
        "{watch: [{path: /a}], wach: []}",
        "{watch: [{path: /a}], archive: {path: /b, keep_dais: 3}}",
        "{watch: [{path: /a}], archive: {keep_days: 0}}",
        "{watch: [{path: /a}], archive: /b}",
        "{watch: [{path: /a, existing: keep}]}",
        "{watch: [{path: 1}]}",
        "{watch: [{path: /a, recursive: 'yes'}]}",
        "{watch: [{path: /a, include: []}]}",
        "{watch: /a}",
        "{watch: [{path: /a}], log: {level: loud}}",
        "{watch: [{path: /a}], worker: {nice: 20}}",
        "{watch: [{path: /a}], settle: {rescan_seconds: 0}}",
        "{watch: [{path: /a}], defaults: {max_rank: 1.5}}",
        "{watch: [{path: /a}], metrics: {textfile: /m.txt}}",
    ],
)
def test_the_schema_refuses_what_the_reader_refuses(
    faults: Callable[[str], dict[str, Any]], text: str
) -> None:
    """An editor marks the faults that `lensd check` finds."""
    assert faults(text)
    assert not Draft202012Validator(schema()).is_valid(yaml.safe_load(text))


def test_the_example_names_its_schema() -> None:
    """The first line names the schema, where editors expect it; the third has the command."""
    modeline, _, command, *_ = example().splitlines()
    assert modeline == f"# yaml-language-server: $schema={SCHEMA_FILE}"
    assert command == f"#   lensd config schema > {SCHEMA_FILE}"
    assert "/" not in SCHEMA_FILE  # a file in the same folder, no address of a network


def test_the_schema_explains_each_key() -> None:
    """An editor shows the description of each key, and its default if it has one."""
    found = schema()
    parts = {"": found, **found["$defs"]}
    for name, part in parts.items():
        for key, described in part.get("properties", {}).items():
            section = parts.get(described.get("$ref", "").rpartition("/")[2], {})
            assert described.get("description") or section["description"], (name, key)
            inherits = name == "WatchEntry" and key in Settings.model_fields
            assert ("default" in described) != (inherits or key in part.get("required", ()))


def test_overrides_in_a_folder_have_no_default_in_the_schema() -> None:
    """Their default is the value under `defaults`."""
    entry = schema()["$defs"]["WatchEntry"]["properties"]
    assert "default" not in entry["energy"]
    assert entry["existing"]["default"] == "leave"
    assert all("description" in key for key in entry.values())
