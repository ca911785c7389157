"""`lensd compare` as a process."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
from safetensors.torch import save_file

from tests.cli.conftest import Run, run
from tests.lora import making


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.safetensors, b (its int8 output) and c (without one module)."""
    folder = tmp_path_factory.mktemp("files")
    tensors = making.small_file()
    save_file(tensors, folder / "a.safetensors")
    part = {k: t for k, t in tensors.items() if not k.startswith("lora_unet_b.")}
    save_file(part, folder / "c.safetensors")
    run(folder, "compress", "a.safetensors", "-o", "b.safetensors")
    return folder


@pytest.fixture
def lensd(files: Path) -> Run:
    """`lensd(*arguments)` in their folder."""
    return functools.partial(run, files)


def test_json_is_one_document(lensd: Run) -> None:
    """It has all modules, and the paths as given."""
    done = lensd("compare", "a.safetensors", "b.safetensors", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert (found["a"], found["b"]) == ("a.safetensors", "b.safetensors")
    assert len(found["per_module"]) == found["modules"] == 4
    assert 0 < found["delta_error"] <= max(m["delta_error"] for m in found["per_module"])


@pytest.mark.slow
def test_text(lensd: Run) -> None:
    """The text starts with the overall error; then the worst modules follow, the worst first."""
    done = lensd("compare", "a.safetensors", "b.safetensors")
    found = json.loads(lensd("compare", "a.safetensors", "b.safetensors", "--json").stdout)
    lines = done.stdout.splitlines()
    assert lines[0] == "b.safetensors against a.safetensors:"
    assert f"relative delta error {found['delta_error']:.3g}, SNR" in lines[1]
    worst = max(found["per_module"], key=lambda m: m["delta_error"])
    assert lines[lines.index("the worst 4 of 4:") + 2].split()[0] == worst["module"]


def test_modules_that_only_one_file_has(lensd: Run) -> None:
    """They are counted and named. A missing file is a usage error."""
    done = lensd("compare", "a.safetensors", "c.safetensors")
    assert "1 only in a.safetensors: lora_unet_b" in done.stdout
    assert "of the modules in both: 0" in done.stdout
    assert lensd("compare", "a.safetensors", "missing.safetensors").returncode == 2
