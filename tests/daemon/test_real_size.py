"""The daemon on files of real size, its numbers computed again in another way."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.before_after import sha256
from bench.confirm import compute, differences
from tests.support.running import RunningDaemon

FILES = {
    "sd15": ["--arch", "sd15", "--naming", "kohya", "--rank", "128"],
    "sdxl": ["--arch", "sdxl", "--naming", "kohya", "--rank", "32"],
    "flux": ["--arch", "flux", "--naming", "kohya", "--rank", "16", "--dtype", "bfloat16"],
    "flux-peft": ["--arch", "flux", "--naming", "peft", "--rank", "32", "--dtype", "bfloat16"],
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def originals(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("originals")
    for name, options in FILES.items():
        out = folder / f"{name}.safetensors"
        script = shared / "models" / "make_lora.py"
        subprocess.run([sys.executable, str(script), str(out), "--quiet", *options], check=True)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def lines(originals: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """All of them dropped into a watched folder one after another; their log lines by name."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "loras").mkdir()
    config = folder / "config.yaml"
    places = {
        "archive": {"path": str(folder / "archive")},
        "state": {"path": str(folder / "state")},
    }
    watch = [{"path": str(folder / "loras")}]
    config.write_text(json.dumps({"watch": watch, **places, "settle": {"quiet_seconds": 1}}))
    found = {}
    with RunningDaemon(config, folder / "stderr") as daemon:
        daemon.wait_for_event("daemon.ready")
        for name in FILES:
            shutil.copy(originals / f"{name}.safetensors", folder / "loras")
            found[name] = daemon.wait_for_event("file.compressed")
    return found


@pytest.mark.parametrize("name", FILES)
def test_the_log_line_is_true(name: str, lines: dict[str, dict[str, Any]], originals: Path) -> None:
    """Ranks, energies, errors, SNR, hashes and sizes are those of the two files."""
    line = lines[name]
    computed = compute(originals / f"{name}.safetensors", Path(line["path"]))
    off = [row for row in differences(line, computed) if not row[-1]]
    assert off == []
    assert computed.energy_min >= 0.99
    assert line["encodings"] == {
        "int8": computed.modules,
        "float8": 0,
        "float": 0,
        "untouched": 0,
    }


@pytest.mark.parametrize("name", FILES)
def test_the_archive_is_bit_exact(
    name: str, lines: dict[str, dict[str, Any]], originals: Path
) -> None:
    archived = Path(lines[name]["archive_path"])
    assert sha256(archived) == sha256(originals / f"{name}.safetensors")


def test_ultra_of_the_common_file_is_small_and_close(lines: dict[str, dict[str, Any]]) -> None:
    """SD 1.5 at rank 128: under 18 MB, at a relative delta error of at most 0.105."""
    assert lines["sd15"]["bytes_out"] < 18_000_000
    assert lines["sd15"]["delta_error"] <= 0.105
    assert lines["sd15"]["energy_retained"]["min"] >= 0.99


@pytest.mark.parametrize("name", FILES)
def test_restore_is_bit_exact(name: str, lines: dict[str, dict[str, Any]], originals: Path) -> None:
    published = Path(lines[name]["path"])
    config = published.parent.parent / "config.yaml"
    command = [sys.executable, "-m", "lensd", "restore", "-c", str(config), str(published)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert sha256(published) == sha256(originals / published.name)
