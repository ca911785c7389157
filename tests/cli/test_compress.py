"""`lensd compress`: compress a file to a new one, without a daemon."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.lora import making
from tests.support import delta
from tests.support.home_server import Seen
from tests.support.realistic import SmallFile, small_lora

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def lora(tmp_path: Path) -> SmallFile:
    return small_lora(tmp_path / "style.safetensors", seed=1)


def _documents(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_output_lies_beside_the_input(lensd: Run, lora: SmallFile) -> None:
    """NAME.lensd.safetensors; the input is untouched; a second time is refused without --force.

    The output itself is not compressed again.
    """
    before = Seen.of(lora.path)
    done = lensd("compress", "style.safetensors")
    assert (done.returncode, done.stderr) == (0, "")
    output = lora.path.with_name("style.lensd.safetensors")
    assert output.name in done.stdout
    assert "times smaller" in done.stdout
    assert output.stat().st_size < before.size / 2
    assert delta.relative_error(lora.deltas, delta.deltas(output)) < 0.12
    umask = os.umask(0)
    os.umask(umask)
    assert output.stat().st_mode & 0o777 == 0o666 & ~umask
    first = Seen.of(output)
    again = lensd("compress", "style.safetensors")
    assert (again.returncode, again.stdout) == (2, "")
    assert "--force" in again.stderr
    assert first == Seen.of(output)
    assert lensd("compress", "style.safetensors", "--force").returncode == 0
    assert first.sha256 == Seen.of(output).sha256  # deterministic
    own = lensd("compress", output.name)
    assert own.returncode == 0
    assert "lensd wrote this file" in own.stderr
    assert before == Seen.of(lora.path)
    assert {"style.safetensors", "style.lensd.safetensors"} == set(os.listdir(lora.path.parent))


@pytest.mark.slow
def test_its_options(lensd: Run, lora: SmallFile, tmp_path: Path) -> None:
    """Mode, energy, rank limit, size and -o take effect; --json is one document per file."""
    for name, arguments in {
        "rank": ["--mode", "rank", "--energy", "0.9"],
        "narrow": ["--max-rank", "2"],
        "sized": ["--target-size", "9kB"],
    }.items():
        out = str(tmp_path / f"{name}.safetensors")
        done = lensd("compress", "style.safetensors", "-o", out, "--json", *arguments)
        [numbers] = _documents(done)
        assert numbers["output"] == out
        assert numbers["bytes_out"] == os.path.getsize(out)
        error = delta.relative_error(lora.deltas, delta.deltas(Path(out)))
        assert numbers["delta_error"] == pytest.approx(error, rel=1e-3)
        assert numbers["rank_out"]["max"] == delta.ranks(Path(out))[-1]
    with safe_open(tmp_path / "rank.safetensors", "pt") as file:
        assert file.metadata()["lensd.mode"] == "rank"
    assert delta.ranks(tmp_path / "narrow.safetensors")[-1] == 2
    assert os.path.getsize(tmp_path / "sized.safetensors") <= 9000


@pytest.mark.slow
def test_a_warning_is_printed_and_in_the_document(lensd: Run, lora: SmallFile) -> None:
    """The small modules have the names of Stable Diffusion, and fit none of its layers."""
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    up, down = making.factors("decaying", 32, 768, 8, 0)
    more = making.kohya(name, making.Made(up.half(), down.half(), 8.0))
    save_file(load_file(lora.path) | more, lora.path)
    done = lensd("compress", "style.safetensors", "--json")
    [numbers] = _documents(done)
    [warning] = numbers["warnings"]
    assert f"warning: style.safetensors: {warning}" in done.stderr
    assert "fit no layer of sd15" in warning


@pytest.mark.parametrize(
    "mode", [*(pytest.param(m, marks=pytest.mark.slow) for m in ("rank", "int8")), "ultra"]
)
def test_a_saving_below_5_percent_writes_nothing(lensd: Run, lora: SmallFile, mode: str) -> None:
    """As the daemon keeps such a file; `--min-saving 0` writes it."""
    save_file(load_file(lora.path) | making.ballast(), lora.path)
    done = lensd("compress", "style.safetensors", "--mode", mode)
    assert (done.returncode, done.stdout) == (0, "")
    assert "less than `min_saving` (5%)" in done.stderr
    assert os.listdir(lora.path.parent) == ["style.safetensors"]
    [numbers] = _documents(
        lensd("compress", "style.safetensors", "--mode", mode, "--min-saving", "0", "--json")
    )
    assert 0.95 < numbers["bytes_out"] / numbers["bytes_in"] < 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["none.safetensors"], "does not exist"),
        (["."], "is a directory"),
        (["style.safetensors", "-o", "style.safetensors", "--force"], "never writes over it"),
        (["style.safetensors", "-o", "hard.safetensors", "--force"], "never writes over it"),
        (["style.safetensors", "-o", "soft.safetensors", "--force"], "never writes over it"),
        (["style.safetensors", "other.safetensors", "-o", "x"], "one output"),
        (["style.safetensors", "--energy", "1.5"], "energy"),
        (["style.safetensors", "--energy", "0"], "energy"),
        (["style.safetensors", "--max-rank", "0"], "--max-rank"),
        (["style.safetensors", "--min-saving", "1"], "--min-saving"),
        (["style.safetensors", "--targets", "paint"], "targets"),
        (["style.safetensors", "--target-size", "much"], "much"),
        (["style.safetensors", "-o", "folder", "--force"], "is a folder"),
        (["style.safetensors", "-o", "pipe", "--force"], "is a device or a pipe"),
        (["style.safetensors", "-o", "link to pipe", "--force"], "is a device or a pipe"),
    ],
)
def test_usage_errors_write_nothing(
    lensd: Run, lora: SmallFile, arguments: list[str], says: str
) -> None:
    """Exit code 2 with the cause; the input does not change, even through its other names."""
    folder = lora.path.parent
    small_lora(folder / "other.safetensors", seed=2)
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "link to pipe").symlink_to("pipe")
    os.link(lora.path, folder / "hard.safetensors")
    (folder / "soft.safetensors").symlink_to(lora.path)
    before, names = Seen.of(lora.path), sorted(os.listdir(folder))
    done = lensd("compress", *arguments)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert before == Seen.of(lora.path)
    assert names == sorted(os.listdir(folder))
    assert (folder / "pipe").is_fifo()
    assert (folder / "link to pipe").is_symlink()


def test_a_link_stays_a_link(lensd: Run, lora: SmallFile) -> None:
    """--force replaces the file that it points to, as for /dev/stdout."""
    folder = lora.path.parent
    (folder / "older").write_text("older")
    (folder / "link").symlink_to("older")
    assert lensd("compress", "style.safetensors", "-o", "link", "--force").returncode == 0
    assert (folder / "link").is_symlink()
    assert load_file(folder / "older")


def test_a_missing_output_folder(lensd: Run, lora: SmallFile) -> None:
    """Exit code 5 with a message and no traceback."""
    done = lensd("compress", "style.safetensors", "-o", "missing/out.safetensors")
    assert (done.returncode, done.stdout) == (5, "")
    assert "Traceback" not in done.stderr
    assert "missing" in done.stderr
    assert lora.path.exists()


@pytest.mark.slow
def test_several_files_each_have_an_outcome(lensd: Run, lora: SmallFile) -> None:
    """A broken file fails (exit code 1), a file that is no LoRA is skipped, the rest succeed."""
    folder = lora.path.parent
    bad = small_lora(folder / "bad.safetensors", seed=2).path
    bad.write_bytes(bad.read_bytes()[:-2] + b"\xff\x7f")
    (folder / "page.safetensors").write_text("<html></html>")
    done = lensd("compress", "--json", "bad.safetensors", "page.safetensors", "style.safetensors")
    assert done.returncode == 1
    found = _documents(done)
    assert [d.get("reason") for d in found] == ["not_finite", "not_safetensors", None]
    assert [d["path"] for d in found] == [f"{n}.safetensors" for n in ("bad", "page", "style")]
    outputs = sorted(n for n in os.listdir(folder) if "lensd" in n)
    assert outputs == ["style.lensd.safetensors"]


@pytest.mark.slow
def test_a_file_without_lora_ends_it_with_1(lensd: Run, tmp_path: Path) -> None:
    """No output was written. The remedy does not speak of a watched folder, since there is none."""
    (tmp_path / "page.safetensors").write_text("<html></html>")
    save_file({"weight": torch.ones(4, 4)}, tmp_path / "other.safetensors")
    for name in ("page", "other"):
        done = lensd("compress", f"{name}.safetensors")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"lensd: skipped: {name}.safetensors: ")
        assert "watched folder" not in done.stderr
        assert not done.stderr.rstrip().endswith((":", ",", ";"))
