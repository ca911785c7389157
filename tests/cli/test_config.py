"""`lensd config`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from jsonschema import Draft202012Validator

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def test_the_example_is_a_start(lensd: Run, tmp_path: Path) -> None:
    """`lensd config example > config.yaml` and an existing folder are enough for `check`."""
    example = lensd("config", "example").stdout
    (tmp_path / "loras").mkdir()
    for name, place in (
        ("/srv/loras", "loras"),
        ("/srv/lora-archive", "a"),
        ("/var/lib/lensd", "s"),
    ):
        assert f"path: {name}\n" in example
        example = example.replace(f"path: {name}\n", f"path: {place}\n")
    (tmp_path / "config.yaml").write_text(example)
    done = lensd("check")
    assert done.returncode == 0, done.stdout


def test_the_schema_is_json(lensd: Run) -> None:
    """The output is one valid JSON Schema."""
    schema = json.loads(lensd("config", "schema").stdout)
    Draft202012Validator.check_schema(schema)
    assert Draft202012Validator(schema).is_valid({"watch": [{"path": "/srv/loras"}]})
