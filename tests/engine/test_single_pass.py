"""A single pass over a file and two passes give the same output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lensd.engine import measures, plans, task
from lensd.engine.passes import Engine
from lensd.engine.reader import Source
from lensd.lora.plan import Findings
from lensd.store.header import read_header
from lensd.worker.request import CompressRequest
from tests.engine import asking
from tests.lora import making
from tests.support.realistic import small_lora

FILES: dict[str, dict[str, Any]] = {
    "kohya": {},
    "bfloat16": {"dtype": "BF16"},
    "float32": {"dtype": "F32"},
    "peft": {"naming": "peft", "alpha": None, "rank": 32},
    "rank 2": {"rank": 2, "effective_rank": 1.0},
    "rank 32": {"rank": 32, "effective_rank": 20.0},
    "rank 128": {"rank": 128},
    "zeros": {"zero_modules": 2},
}


def in_two_passes(request: CompressRequest) -> str:
    """Compress by a plan of the whole file, in the space of a single pass; return the sha256."""
    p = request.parameters
    with Source.open(request.path) as source:
        source.leave_alpha_zero()
        draft = plans.make_draft(source, p)
        assert draft is not None
        engine = Engine(source, "cpu", task.no_progress)
        with task._hashing(source) as hashing:
            readings = engine.first_pass(p, draft)
            sha256 = hashing.result()
        origin = task._origin(source, request, sha256)
        original = measures.Original(origin, readings, [], engine.order)
        chosen = plans.choose(source, original, p, Findings())
        least = plans.least_header(source, draft, origin)
        written = task._write(engine, request, original, chosen, Findings(), least)
        assert isinstance(written, task._Written)
        return written.sha256


# peft has no alphas, and diffusers cannot load int8 without one: int8 changes nothing there.
CASES = [(kind, m) for kind in FILES for m in asking.MODES if (kind, m) != ("peft", "int8")]


@pytest.mark.parametrize(("kind", "mode"), CASES)
def test_both_ways_write_the_same_bytes(tmp_path: Path, kind: str, mode: str) -> None:
    """Of each naming, number format and rank, and in each mode."""
    source, out = tmp_path / "source.safetensors", tmp_path / "out"
    small_lora(source, **FILES[kind])
    check(
        source,
        out,
        mode=mode,
        min_saving=-1.0,
        float32="float16",
        targets=("comfyui",),
        encodings=("int8",),
    )


@pytest.mark.parametrize("mode", asking.MODES)
def test_both_ways_write_the_same_bytes_of_odd_files(tmp_path: Path, mode: str) -> None:
    """Alphas that differ, magnitudes, biases, and tensors that stay as they are."""
    source, out = tmp_path / "source.safetensors", tmp_path / "out"
    tensors = making.small_file()
    name = next(key for key in tensors if key.endswith(".lora_down.weight"))[
        : -len(".lora_down.weight")
    ]
    up = tensors[f"{name}.lora_up.weight"]
    tensors[f"{name}.dora_scale"] = torch.ones(1, up.shape[0])
    tensors["other.bias"] = torch.arange(3).to(torch.int64)
    tensors["odd.weight"] = torch.arange(5).to(torch.uint8)
    save_file(tensors, source, {"ss_network_dim": "9", "ss_network_alpha": "3", "note": "ü"})
    check(
        source,
        out,
        mode=mode,
        min_saving=-1.0,
        float32="float16",
        targets=("comfyui",),
        encodings=("int8",),
    )


def check(source: Path, out: Path, **settings: Any) -> None:
    """Compare the two ways tensor by tensor, and byte by byte."""
    numbers = asking.compress(source, out, **settings)
    single = load_file(out)
    sha256 = in_two_passes(asking.output(source, out, **settings))
    double = load_file(out)
    assert single.keys() == double.keys()
    for key, tensor in single.items():
        assert torch.equal(
            tensor.view(-1).view(torch.uint8), double[key].view(-1).view(torch.uint8)
        )
    assert numbers["sha256_out"] == sha256


def test_spaces_fill_the_space_that_the_header_does_not_need(tmp_path: Path) -> None:
    """Ranks and offsets have fewer digits than in the space that was reserved for them."""
    source, out = tmp_path / "source.safetensors", tmp_path / "out"
    small_lora(source, rank=128)
    asking.compress(source, out)
    data = out.read_bytes()
    with out.open("rb") as file:
        start = read_header(file.fileno(), len(data)).data_start
    assert start % 8 == 0
    assert data[:start].endswith(16 * b" ")
    with safe_open(out, framework="np") as file:
        assert set(file.keys()) == set(load_file(out))


@pytest.mark.parametrize("mode", ["rank", "ultra"])
def test_a_module_that_needs_another_encoding_is_written_again(tmp_path: Path, mode: str) -> None:
    """A file-wide plan decides then; the output is the one that two passes give."""
    source, out = tmp_path / "source.safetensors", tmp_path / "out"
    small_lora(source, rank=32, effective_rank=20.0)
    numbers = asking.compress(source, out, mode=mode, strict_energy=True, min_saving=-1.0)
    assert numbers["delta_error_max"] <= 0.1
    assert load_file(out).keys() >= {k for k in load_file(source) if "lora_" in k}


def test_offsets_that_grow_in_the_order_of_the_batches_fit_into_the_header(tmp_path: Path) -> None:
    """The output has all modules of one shape before those of the next, unlike the original."""
    source, out = tmp_path / "source.safetensors", tmp_path / "out"
    sides = [64, *[8] * 60, *[64] * 40]
    tensors = {}
    for at, side in enumerate(sides):
        name = f"lora_unet_{at:03}"
        tensors[f"{name}.alpha"] = torch.tensor(2.0)
        tensors[f"{name}.lora_down.weight"] = torch.eye(2, side).half()
        tensors[f"{name}.lora_up.weight"] = torch.eye(side, 2).half()
    save_file(tensors, source)
    request = asking.output(source, out, mode="int8", targets=("kohya",), min_saving=-1.0)
    assert is_written_in_a_single_pass(request)


@pytest.mark.parametrize("count", [3, 300])
def test_the_ranks_of_a_peft_file_fit_into_the_header(tmp_path: Path, count: int) -> None:
    """diffusers needs an entry with them, which the original does not have."""
    source, out = tmp_path / "source.safetensors", tmp_path / "out"
    tensors = {}
    for at in range(count):
        rank = 1 + at % 12  # in use
        name = f"transformer.blöcke.{at}.attn.to_q" if at % 2 else f"transformer.a.{at}.attn.to_q"
        tensors[f"{name}.lora_A.weight"] = torch.eye(16, 32).half()
        tensors[f"{name}.lora_B.weight"] = (torch.eye(32, 16) * (torch.arange(16) < rank)).half()
    save_file(tensors, source)
    assert is_written_in_a_single_pass(asking.output(source, out, mode="rank", min_saving=-1.0))
    with safe_open(out, framework="np") as file:
        assert "rank_pattern" in file.metadata()["lora_adapter_metadata"]


def is_written_in_a_single_pass(request: CompressRequest) -> bool:
    with Source.open(request.path) as source:
        draft = plans.make_draft(source, request.parameters)
        assert draft is not None
        engine = Engine(source, "cpu", task.no_progress)
        least = plans.least_header(source, draft, task._origin(source, request))
        *_, written = task._write_in_single_pass(engine, request, draft, least)
    return isinstance(written, task._Written)
