"""`lensd analyze`: ranks, spectrum and predicted sizes of a LoRA."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from xml.etree import ElementTree as ET

import pytest
import torch
from safetensors.torch import save_file

from lensd.text import size
from tests.lora import key_lists
from tests.support.home_server import Seen
from tests.support.realistic import small_lora

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def test_spectrum_and_ranks_are_those_of_a_float64_svd(lensd: Run, tmp_path: Path) -> None:
    """Each module has its singular values and the smallest rank per energy; no file is written."""
    made = small_lora(tmp_path / "style.safetensors", seed=3)
    before = Seen.of(made.path)
    done = lensd("analyze", "--json", made.path.name)
    assert done.returncode == 0, done.stderr
    numbers = json.loads(done.stdout)
    truth = made.spectra()
    assert {d["module"] for d in numbers["details"]} == set(truth)
    for detail in numbers["details"]:
        values = truth[detail["module"]][: detail["rank"]]
        assert detail["spectrum"] == pytest.approx(values, rel=1e-4, abs=1e-6)
        energies = (values**2).cumsum() / (values**2).sum()
        for energy, rank in detail["ranks"].items():
            assert rank == 1 + int((energies < float(energy)).sum())
    assert before == Seen.of(made.path)
    assert [made.path.name] == os.listdir(tmp_path)


@pytest.mark.slow
def test_the_predicted_sizes_are_the_real_ones(lensd: Run, tmp_path: Path) -> None:
    """The prediction for each mode is exact to the byte."""
    path = small_lora(tmp_path / "style.safetensors", seed=4).path
    predicted = json.loads(lensd("analyze", "--json", path.name).stdout)["predicted"]
    for mode, expected in predicted.items():
        done = lensd("compress", path.name, "-o", mode, "--mode", mode)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / mode).stat().st_size == expected
    assert set(predicted) == {"rank", "int8", "ultra"}


@pytest.mark.slow
def test_the_text(lensd: Run, tmp_path: Path) -> None:
    """Ranks by block and sizes by mode are columns; a file that is no LoRA has a line on stderr."""
    path = small_lora(tmp_path / "style.safetensors", seed=5).path
    (tmp_path / "page.safetensors").write_text("<html></html>")
    done = lensd("analyze", path.name, "page.safetensors")
    assert done.returncode == 0
    assert "style.safetensors: 40.3 kB" in done.stdout
    numbers = json.loads(lensd("analyze", "--json", path.name).stdout)
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line}
    medians = [
        f"{median(d['ranks'][energy] for d in numbers['details']):g}"
        for energy in ("0.9", "0.95", "0.99", "0.999")
    ]
    ranks = numbers["rank_in"]
    spread = f"{ranks['min']}" if ranks["min"] == ranks["max"] else f"{ranks['min']}-{ranks['max']}"
    assert rows["all"][:6] == [str(numbers["modules"]), spread, *medians]
    blocks = [name for name in rows if re.fullmatch(r"[a-z]+_blocks?(\.\d+)?|te1\.\d+|other", name)]
    assert numbers["modules"] == sum(int(rows[name][0]) for name in blocks)
    for mode, predicted in numbers["predicted"].items():
        assert rows[mode] == [*size(predicted).split(), f"{numbers['bytes_in'] / predicted:.1f}"]
    assert "skipped: page.safetensors" in done.stderr
    assert lensd("analyze", "none.safetensors").returncode == 2


@pytest.mark.slow
def test_the_programs_because_of_which_int8_is_not_used(lensd: Run, tmp_path: Path) -> None:
    """They are named, with the number of modules that stay in 16 bits; else there is no line."""
    save_file(key_lists.of("sd15.peft_base").tensors(), tmp_path / "unknown.safetensors")
    small_lora(tmp_path / "style.safetensors", seed=6)
    done = lensd("analyze", "unknown.safetensors")
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("why not int8"))
    assert "comfyui, a1111, forge is not known to load it exactly from this file" in line
    assert re.search(r"(\d+) of \1 modules stay in 16 bits$", line)
    assert "why not int8" not in lensd("analyze", "style.safetensors").stdout


@pytest.mark.slow
def test_the_picture(lensd: Run, tmp_path: Path) -> None:
    """The SVG is valid XML without references to other files, and shows any file name as text.

    --force overwrites an older picture.
    """
    name = "a $x^2$ <b>&\x1b.safetensors"
    small_lora(tmp_path / name, seed=6)
    (tmp_path / "out.svg").write_text("older")
    done = lensd("analyze", name, "--plot", "out.svg", "--force")
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(tmp_path)) == [name, "out.svg"]
    assert "ultra" in done.stdout
    text = (tmp_path / "out.svg").read_text()
    root = ET.fromstring(text)  # noqa: S314  our own
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    words = {"".join(found.itertext()) for found in root.iter("{http://www.w3.org/2000/svg}text")}
    assert words >= {"a $x^2$ <b>&\\x1b.safetensors", "Energy by rank", "te1", "before"}
    links = {found.get("{http://www.w3.org/1999/xlink}href", "#") for found in root.iter()}
    assert all(link.startswith("#") for link in links)
    assert not re.search(r"@import|<script|<image|url\((?!#)|DOCTYPE", text)
    bars = [found for found in root.iter() if found.get("id", "").startswith("patch_")]
    assert len(bars) > 4  # two blocks, each with a bar before and a bar after


def test_a_picture_does_not_overwrite_a_file(lensd: Run, tmp_path: Path) -> None:
    """An existing picture, several inputs, or the input as target: errors before any work."""
    path = small_lora(tmp_path / "style.safetensors", seed=6).path
    (tmp_path / "out.svg").write_text("mine")
    done = lensd("analyze", path.name, "--plot", "out.svg")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--force" in done.stderr
    assert (tmp_path / "out.svg").read_text() == "mine"
    assert lensd("analyze", path.name, path.name, "--plot", "b.svg").returncode == 2
    assert lensd("analyze", path.name, "--plot", path.name, "--force").returncode == 2
    assert sorted(os.listdir(tmp_path)) == ["out.svg", "style.safetensors"]


def test_without_matplotlib(tmp_path: Path) -> None:
    """The error says how to install matplotlib, and no file is read."""
    path = small_lora(tmp_path / "style.safetensors", seed=6).path
    hiding = "import sys; sys.modules['matplotlib'] = None; import lensd.cli; lensd.cli.main()"
    command = [sys.executable, "-c", hiding, "analyze", path.name, "--plot", "out.svg"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install" in done.stderr


@pytest.mark.slow
def test_a_loha_has_sizes_and_no_spectrum(lensd: Run, tmp_path: Path) -> None:
    """It has no singular values to show or to draw."""
    random = torch.Generator().manual_seed(0)
    sides = {"a": (320, 16), "b": (16, 320)}
    tensors = {
        f"lora_unet_mid_block_attentions_0_proj_in.hada_w{at}_{side}": torch.randn(
            shape, generator=random
        )
        for at in (1, 2)
        for side, shape in sides.items()
    }
    save_file(tensors, tmp_path / "loha.safetensors")
    done = lensd("analyze", "loha.safetensors")
    assert done.returncode == 0, done.stderr
    assert "lycoris naming, F32, 1 modules, rank 16" in done.stdout
    assert "share of the energy" not in done.stdout
    assert re.search(r"^ultra +\d+\.\d kB +2\.0$", done.stdout, re.MULTILINE)
    numbers = json.loads(lensd("analyze", "--json", "loha.safetensors").stdout)
    assert numbers["details"] == []
    done = lensd("analyze", "loha.safetensors", "--plot", "a.svg")
    assert done.returncode == 2
    assert "no spectrum" in done.stderr
