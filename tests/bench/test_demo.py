"""bench.demo: what it prints, and that it notices every broken promise."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from safetensors.numpy import load_file, save_file

from bench import before_after, demo
from tests.support.realistic import small_lora


class Scene(NamedTuple):
    """A demo tree as after a good run: an archived original, and a smaller file in the folder."""

    tree: demo.Tree
    line: dict[str, Any]

    def broken(self) -> list[str]:
        before = before_after.facts(self.tree.downloaded)
        after = before_after.facts(self.tree.lora)
        error = before_after.delta_error(self.tree.downloaded, self.tree.lora)
        promises = demo.promises(self.tree, before, after, self.line, error)
        return [promise for holds, promise in promises if not holds]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A scene whose result is the same LoRA in float16, made without lensd."""
    tree = demo.Tree(tmp_path)
    tree.create()
    small_lora(tree.downloaded, dtype="F32", effective_rank=2.0, rank=4, alpha=4.0)
    archived = tmp_path / "archive" / tree.lora.name
    shutil.copy2(tree.downloaded, archived)
    before = before_after.facts(tree.downloaded)
    _cut_to_float16(tree.downloaded, tree.lora, {"lensd.original_sha256": before.sha256})
    after = before_after.facts(tree.lora)
    line = {
        "event": "file.compressed",
        "path": str(tree.lora),
        "archive_path": str(archived),
        "sha256_in": before.sha256,
        "sha256_out": after.sha256,
        "bytes_in": before.size,
        "bytes_out": after.size,
        "delta_error": before_after.delta_error(tree.downloaded, tree.lora),
        "delta_error_max": 0.0021,
        "energy_retained": {"min": 0.991, "overall": 0.9949},
        "snr_db": None,
        "delta_snr_db": 35.04,
        "seconds": {"wait": 1.02, "total": 4.71},
    }
    return Scene(tree, line)


def _cut_to_float16(source: Path, target: Path, metadata: dict[str, str]) -> None:
    tensors = {name: tensor.astype("float16") for name, tensor in load_file(source).items()}
    save_file(tensors, target, metadata)


def test_a_good_result_keeps_every_promise(scene: Scene) -> None:
    assert scene.broken() == []


def test_a_changed_archive_is_noticed(scene: Scene) -> None:
    with open(scene.line["archive_path"], "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")
    assert scene.broken() == ["the archived original is bit-exact (sha256 compared)"]


def test_a_missing_archive_is_noticed(scene: Scene) -> None:
    Path(scene.line["archive_path"]).unlink()
    assert scene.broken() == ["the archived original is bit-exact (sha256 compared)"]


@pytest.mark.parametrize(
    ("key", "value", "promise"),
    [
        ("sha256_in", "0" * 64, "the log names the original's sha256"),
        ("sha256_out", "0" * 64, "the log names the result's sha256"),
        ("bytes_in", 1, "the log names the sizes on disk"),
        ("bytes_out", 1, "the log names the sizes on disk"),
        ("delta_error", 0.0, "the log's delta error is the one measured on the files"),
    ],
)
def test_a_log_line_that_is_not_true_is_noticed(
    scene: Scene, key: str, value: object, promise: str
) -> None:
    scene.line[key] = value
    assert scene.broken() == [promise]


def test_a_result_that_is_not_smaller_is_noticed(scene: Scene) -> None:
    shutil.copy2(scene.tree.downloaded, scene.tree.lora)
    assert "the file is smaller" in scene.broken()


def test_the_table_shows_files_and_line(scene: Scene) -> None:
    """Sizes and ranks are from the files; the other numbers are from the log line."""
    before = before_after.facts(scene.tree.downloaded)
    after = before_after.facts(scene.tree.lora)
    rows = [row.split() for row in demo.table(before, after, scene.line, 0.25).splitlines()]
    assert ["bytes", f"{before.size:,}", f"{after.size:,}"] in rows
    assert ["numbers", "F32", "F16"] in rows
    assert ["delta", "error,", "measured", "here", "0.2500"] in rows
    assert ["by", "the", "worst", "module", "*", "99.10%"] in rows
    assert ["SNR", "of", "the", "quantization", "*", "-"] in rows
    assert ["of", "the", "delta", "weight", "*", "35.0", "dB"] in rows


def test_the_whole_line_is_printed(scene: Scene) -> None:
    """The printed text has every key and value of the line."""
    parts = [row.split(":", 1) for row in demo.pretty(scene.line).splitlines()]
    assert {key.strip(): json.loads(value) for key, value in parts} == scene.line


@pytest.mark.parametrize("name", ["plain", "with space", "it's: a #1 {folder}", "größe"])
def test_the_configuration_names_any_folder(tmp_path: Path, name: str) -> None:
    tree = demo.Tree(tmp_path / name)
    config = yaml.safe_load(tree.configuration())
    assert config["watch"] == [{"path": str(tree.loras)}]
    assert config["archive"]["path"] == str(tree.top / "archive")


def test_the_configuration_has_no_faults(tmp_path: Path) -> None:
    """`lensd check` finds none once the folders exist."""
    tree = demo.Tree(tmp_path)
    tree.create()
    command = [sys.executable, "-m", "lensd", "check", "-c", str(tree.config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("change", "is_outcome"),
    [
        (lambda line: line, True),
        (lambda line: line | {"event": "file.failed"}, True),
        (lambda line: line | {"event": "file.settled"}, False),
        (lambda line: line | {"event": "worker.started"}, False),
        (lambda line: line | {"path": "/elsewhere/b.safetensors"}, False),
    ],
)
def test_only_an_outcome_of_the_file_itself_ends_the_wait(
    scene: Scene, change: Callable[[dict[str, Any]], dict[str, Any]], *, is_outcome: bool
) -> None:
    assert demo.is_outcome(change(scene.line), scene.tree.lora) is is_outcome
