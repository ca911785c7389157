"""Measured values decide between keeping and compressing, and between int8 and floats."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lensd.engine import task
from lensd.errors import Kept
from lensd.logs.measures import FloatBecause
from lensd.lora import compress as numerics
from lensd.lora.parameters import Parameters
from tests.engine import asking
from tests.engine.asking import Numbers, compress
from tests.engine.loaders import LOADERS
from tests.lora import making
from tests.lora.making import Made, Tensors
from tests.support.architectures import sd15
from tests.support.realistic import small_lora, write_lora


def spiked(seed: int = 0) -> Made:
    """Return noise of rank 32 with one huge element.

    The guard makes the scale so large for that element that int8 loses the rest.
    """
    random = torch.Generator().manual_seed(seed)
    up, down = torch.randn(640, 32, generator=random), torch.randn(32, 640, generator=random)
    up[3, 0], down[0, 5] = up[3, 0] * 100, down[0, 5] * 100
    return Made(up.half(), down.half(), 4.0)


def spiked_file(*, plain: int = 3) -> Tensors:
    tensors = making.kohya("lora_unet_spiked", spiked())
    for at in range(plain):
        up, down = making.factors("decaying", 320, 320, 32, at)
        tensors |= making.kohya(f"lora_unet_{at}", Made(up.half(), down.half(), 4.0))
    return tensors


@pytest.mark.parametrize("mode", ["int8", "ultra"])
def test_a_module_that_is_too_noisy_in_int8_stays_in_floats(tmp_path: Path, mode: str) -> None:
    """Only that module does, with its reason; the file loads exactly and finite in float16."""
    source, out = tmp_path / "a.safetensors", tmp_path / "out"
    before = spiked_file()
    save_file(before, source)
    numbers = compress(source, out, mode=mode, encodings=("int8",))
    assert numbers["float_because"] == {"noise": 1}
    assert numbers["encodings"] == {"int8": 3, "float8": 0, "float": 1, "untouched": 0}
    after = load_file(out)
    assert {k for k, t in after.items() if t.dtype == torch.float16} == {
        f"lora_unet_spiked.lora_{part}.weight" for part in ("up", "down")
    }
    old, new = making.meaning(before), making.meaning(after)
    energy = 1.0 if mode == "int8" else 0.99
    for name, delta in old.items():
        assert making.distance(delta, new[name]) <= math.sqrt(1 - energy) + 0.05
    errors = math.fsum(float((old[n] - new[n]).square().sum()) for n in old)
    total = math.fsum(float(d.square().sum()) for d in old.values())
    assert numbers["delta_error"] == pytest.approx(math.sqrt(errors / total), rel=1e-5)
    assert numbers["bytes_out"] == out.stat().st_size
    for name in old:
        up, down = (after[f"{name}.lora_{f}.weight"] for f in ("up", "down"))
        merged = LOADERS["a1111"].merge(up, down, after[f"{name}.alpha"].item(), torch.float16)
        assert bool(merged.isfinite().all())


@pytest.mark.parametrize("mode", ["int8", "ultra"])
def test_a_module_that_is_too_noisy_in_int8_becomes_float8(tmp_path: Path, mode: str) -> None:
    """If every target loads that exactly; its error is that of float8."""
    source, out = tmp_path / "a.safetensors", tmp_path / "out"
    before = spiked_file()
    save_file(before, source)
    numbers = compress(source, out, mode=mode)
    assert numbers["float_because"] == {}
    assert numbers["encodings"] == {"int8": 3, "float8": 1, "float": 0, "untouched": 0}
    after = load_file(out)
    assert after["lora_unet_spiked.lora_up.weight"].dtype == torch.float8_e4m3fn
    name = "lora_unet_spiked"
    lost = 0.0 if mode == "int8" else 0.1
    assert making.distance(making.meaning(before)[name], making.meaning(after)[name]) < lost + 0.05
    if mode == "ultra":
        assert task.analyze(asking.analysis(source)).predicted.ultra == out.stat().st_size


def test_the_float_module_has_the_alpha_that_the_file_had(tmp_path: Path) -> None:
    """All modules in floats have that alpha; the alphas of int8 modules have their scales."""
    source, out = tmp_path / "a.safetensors", tmp_path / "out"
    save_file(spiked_file(), source)
    compress(source, out, encodings=("int8",))
    assert float(load_file(out)["lora_unet_spiked.alpha"]) == 4.0
    assert asking.metadata_of(out)["lensd.alpha"] == "4.0"


def test_a_file_with_only_such_modules_becomes_a_float_file(tmp_path: Path) -> None:
    """Mode ultra then does the same as mode rank; in mode int8 the reason is no_gain."""
    source, out = tmp_path / "a.safetensors", tmp_path / "out"
    save_file(spiked_file(plain=0), source)
    numbers = compress(source, out, mode="ultra", energy=0.97, encodings=("int8",))
    assert (numbers["dtype_out"], numbers["delta_snr_db"]) == ("F16", None)
    with pytest.raises(Kept) as caught:
        compress(source, out, mode="int8", encodings=("int8",))
    assert caught.value.reason == "no_gain"


def test_a_target_size_is_kept_with_a_float_module_too(tmp_path: Path) -> None:
    """A rank of that module takes two bytes per element."""
    source, out = tmp_path / "a.safetensors", tmp_path / "out"
    save_file(spiked_file(), source)
    numbers = compress(source, out, target_size=40_000)
    assert out.stat().st_size <= 40_000
    assert numbers["encodings"]["float"] in (0, 1)


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    path = tmp_path / "a.safetensors"
    small_lora(path)
    return path


@pytest.mark.parametrize("mode", asking.MODES)
def test_max_error_compares_what_was_measured(lora: Path, mode: str) -> None:
    """The limit is compared with the error of the bytes read back, to one part in 10^4."""
    out = lora.with_name("out")
    measured = compress(lora, out, mode=mode, min_saving=-1.0)["delta_error"]
    old, new = asking.deltas(lora), asking.deltas(out)
    errors = math.fsum(float((old[n] - new[n]).square().sum()) for n in old)
    total = math.fsum(float(d.square().sum()) for d in old.values())
    assert measured == pytest.approx(math.sqrt(errors / total), rel=1e-6)
    compress(lora, out, mode=mode, min_saving=-1.0, max_error=measured * 1.0001)
    with pytest.raises(Kept) as caught:
        compress(lora, out, mode=mode, min_saving=-1.0, max_error=measured * 0.9999)
    assert (caught.value.reason, caught.value.measures.delta_error) == ("max_error", measured)


def test_min_saving_compares_the_bytes_of_the_file(lora: Path) -> None:
    """The sizes include header and marks. A file that saves exactly the limit is compressed."""
    out = lora.with_name("out")
    numbers = compress(lora, out)
    saved = 1 - out.stat().st_size / lora.stat().st_size
    assert compress(lora, out, min_saving=saved)["bytes_out"] == numbers["bytes_out"]
    with pytest.raises(Kept) as caught:
        compress(lora, out, min_saving=saved + 1e-6)
    assert caught.value.reason == "no_gain"


@pytest.mark.parametrize("mode", ["rank", "ultra"])
@pytest.mark.parametrize("allocation", ["module", "file", "balanced"])
def test_max_rank_limits_the_ranks_of_the_output(lora: Path, mode: str, allocation: str) -> None:
    """The measured error and energy include what the limit costs."""
    out = lora.with_name("out")
    free = compress(lora, out, mode=mode, allocation=allocation, min_saving=-1.0)
    bound = compress(lora, out, mode=mode, allocation=allocation, max_rank=3, min_saving=-1.0)
    assert max(asking.rank_of(out).values()) == 3 == bound["rank_out"]["max"]
    assert bound["delta_error"] > free["delta_error"]
    assert bound["energy_retained"]["overall"] < free["energy_retained"]["overall"]


def test_mode_int8_keeps_ranks_whatever_max_rank_says(lora: Path) -> None:
    """The mode only quantizes."""
    out = lora.with_name("out")
    compress(lora, out, mode="int8", max_rank=3)
    assert set(asking.rank_of(out).values()) == {16}


@pytest.mark.parametrize("mode", ["rank", "ultra"])
def test_a_constant_rank_reaches_the_energy_in_every_module(lora: Path, mode: str) -> None:
    """By module, the module that needs the largest rank decides for all."""
    out = lora.with_name("out")
    compress(lora, out, mode=mode, min_saving=-1.0)
    largest = max(asking.rank_of(out).values())
    numbers = compress(lora, out, mode=mode, constant_rank=True, min_saving=-1.0)
    assert set(asking.rank_of(out).values()) == {largest}
    assert numbers["energy_retained"]["min"] >= 0.99


def with_allocation(source: Path, out: Path, **options: object) -> tuple[Numbers, Numbers]:
    by_module = compress(source, out, allocation="module", **options)
    return by_module, compress(source, out, allocation="file", **options)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("energy", [0.9, 0.99])
def test_by_file_is_never_larger_than_by_module_at_the_same_energy(
    tmp_path: Path, seed: int, energy: float
) -> None:
    """By file the output has that energy too."""
    source, out = tmp_path / "a.safetensors", tmp_path / "out"
    small_lora(source, seed=seed)
    by_module, by_file = with_allocation(source, out, energy=energy)
    assert by_file["bytes_out"] <= by_module["bytes_out"]
    assert by_file["energy_retained"]["overall"] >= energy


@pytest.mark.slow
def test_the_default_file_of_real_size(tmp_path: Path) -> None:
    """By file it is a quarter smaller at the same energy; int8's median error is at most 1.7e-2."""
    source, out = tmp_path / "a.safetensors", tmp_path / "out"
    write_lora(source)
    by_module, by_file = with_allocation(source, out, mode="rank")
    assert by_file["energy_retained"]["overall"] >= 0.99
    assert by_file["bytes_out"] <= 0.75 * by_module["bytes_out"]
    by_module, by_file = with_allocation(source, out)
    assert by_file["bytes_out"] <= 0.75 * by_module["bytes_out"]
    assert by_module["float_because"] == {}
    for allocation in ("module", "file"):
        assert statistics.median(noises(source, allocation)) <= 1.7e-2


def noises(source: Path, allocation: str) -> list[float]:
    """Return the relative delta error of the quantization alone for each module."""
    tensors = load_file(source)
    found = []
    for m in making.plan_of(tensors, Parameters(allocation=allocation)).modules:
        reduced = numerics.reduce(m, *making.pair_of(tensors, m.module.up, m.module.down))
        assert m.encoding == "I8"
        found.append(math.sqrt(reduced.squared_error / reduced.squared_signal))
    return found


@pytest.mark.slow
def test_int8_has_a_small_error_on_real_shapes(tmp_path: Path) -> None:
    """The limit is the same, on a part of that file that is quick enough for every test run."""
    source = tmp_path / "a.safetensors"
    modules = [m for m in sd15() if "up_blocks.2.attentions.1" in m.path or "layers.7." in m.path]
    write_lora(source, modules=modules)
    assert statistics.median(noises(source, "module")) <= 1.7e-2


def test_analyze_predicts_the_bytes_of_a_file_with_a_noisy_module(tmp_path: Path) -> None:
    """It does the same as compress without writing, so it has the same plan."""
    source, out = tmp_path / "a.safetensors", tmp_path / "out"
    save_file(spiked_file(), source)
    found = task.analyze(asking.analysis(source, encodings=("int8",)))
    assert found.float_because == FloatBecause(noise=1)
    for mode in asking.MODES:
        numbers = compress(source, out, mode=mode, encodings=("int8",))
        assert getattr(found.predicted, mode) == numbers["bytes_out"]
