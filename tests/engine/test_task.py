"""lensd.engine.task on real files; every number is checked with the bytes on the disk."""

from __future__ import annotations

import hashlib
import json
import math
import os
import statistics
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from lensd.engine import best_device, passes, task
from lensd.engine.reader import Source
from lensd.errors import Failed, Kept, Skipped
from lensd.logs.measures import Analyzed
from lensd.lora import blocks, fidelity, metadata
from lensd.lora import compress as numerics
from lensd.lora.parameters import Parameters
from lensd.store.header import tensor_bytes
from lensd.store.tensors import empty_temporary
from tests.engine import asking
from tests.engine.asking import MODES, Numbers, compress, deltas
from tests.lora import making
from tests.lora.making import Made
from tests.support.architectures import Module, sd15
from tests.support.descriptors import Descriptors
from tests.support.realistic import small_lora, write_lora
from tests.support.sdxl_flux import flux_peft, sdxl_kohya

# Names of FLUX in diffusers: in this dialect of peft int8 loads.
FLUX = (
    Module("unet", "transformer_blocks.0.attn.to_q", 96, 64),
    Module("unet", "transformer_blocks.0.attn.to_k", 64, 96),
    Module("unet", "single_transformer_blocks.0.proj_out", 64, 128),
)


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    """A kohya file of six small modules, one of them untrained."""
    path = tmp_path / "a.safetensors"
    small_lora(path, zero_modules=1)
    return path


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    return tmp_path / ".lensd.tmp"


def peft_lora(path: Path, *, dtype: torch.dtype = torch.bfloat16) -> Path:
    """Write a FLUX file in peft's naming, with the entry in which diffusers stores the alpha."""
    tensors: making.Tensors = {}
    for at, module in enumerate(FLUX):
        up, down = making.factors("decaying", module.out_features, module.in_features, 12, at)
        made = Made(up.to(dtype), down.to(dtype), None)
        tensors |= making.peft(f"transformer.{module.path}", made)
    entry = {"transformer.r": 12, "transformer.lora_alpha": 6}
    save_file(tensors, path, {"format": "pt", "lora_adapter_metadata": json.dumps(entry)})
    return path


def confirm(before: Path, after: Path, numbers: Numbers, energy: float | None) -> None:
    """Check every number of a result, from the two files and full float64 matrices.

    `energy`: the share that decides the ranks; None if modules keep their ranks.
    """
    old, new = deltas(before), deltas(after)
    assert set(old) == set(new)
    errors = {n: float((old[n] - new[n]).square().sum()) for n in old}
    energies = {n: float(old[n].square().sum()) for n in old}
    relative = [(errors[n] / e) ** 0.5 for n, e in energies.items() if e]
    overall = math.sqrt(math.fsum(errors.values()) / math.fsum(energies.values()))
    # lensd computes a difference of norms, which is exact to 1e-8 of them.
    assert numbers["delta_error"] == pytest.approx(overall, rel=1e-6, abs=3e-8)
    assert numbers["delta_error_max"] == pytest.approx(max(relative), rel=1e-6, abs=3e-8)

    ranks_in, ranks = asking.rank_of(before), asking.rank_of(after)
    spectra = {n: making.spectrum(d).square() for n, d in old.items()}
    retained = {}
    for name, squares in spectra.items():
        total = float(squares.sum())
        retained[name] = float(squares[: ranks[name]].sum()) / total if total else 1.0
        shares = (squares.cumsum(0) / total).tolist() if total else [1.0]
        if energy is None:
            assert ranks[name] == ranks_in[name]
        else:
            assert ranks[name] == next(k for k, s in enumerate(shares, 1) if s >= energy)
    kept = math.fsum(retained[n] * energies[n] for n in old) / math.fsum(energies.values())
    found = numbers["energy_retained"]
    assert found["overall"] == pytest.approx(kept, abs=1e-10)
    assert found["min"] == pytest.approx(min(retained.values()), abs=1e-10)
    for key, values in (("rank_in", ranks_in), ("rank_out", ranks)):
        own = list(values.values())
        expected = {"min": min(own), "median": statistics.median(own), "max": max(own)}
        assert numbers[key] == expected

    assert numbers["modules"] == len(old)
    assert (numbers["bytes_in"], numbers["bytes_out"]) == (size(before), size(after))
    assert numbers["sha256_in"] == hashlib.sha256(before.read_bytes()).hexdigest()
    assert numbers["sha256_out"] == hashlib.sha256(after.read_bytes()).hexdigest()
    written = asking.metadata_of(after)
    assert written["lensd.delta_error"] == metadata.fixed_width(numbers["delta_error"])
    assert written["lensd.original_sha256"] == numbers["sha256_in"]
    assert set(numbers["seconds"]) == {"read", "compute", "write", "verify"}
    json.dumps(numbers, allow_nan=False)


def size(path: Path) -> int:
    return path.stat().st_size


def confirm_quantization(before: Path, after: Path, numbers: Numbers) -> None:
    """Check the SNR of delta weights with full matrices, errors of elements by reducing again."""
    old, new, ranks = deltas(before), deltas(after), asking.rank_of(after)
    signal = noise = 0.0
    for name, delta in old.items():
        left, values, right = torch.linalg.svd(delta, full_matrices=False)
        k = ranks[name]
        truncated = left[:, :k] * values[:k] @ right[:k]
        signal += float(truncated.square().sum())
        noise += float((truncated - new[name]).square().sum())
    assert numbers["delta_snr_db"] == pytest.approx(10 * math.log10(signal / noise), abs=1e-3)

    tensors = load_file(before)
    plan = making.plan_of(tensors, Parameters(mode=numbers["mode"]))
    total, uniform = fidelity.ElementError(), []
    for m in plan.modules:
        result = numerics.reduce(m, tensors[m.module.up], tensors[m.module.down])
        total.merge(result.elements)
        step = math.sqrt(float(result.tensors[m.module.alpha_key]) / m.rank / abs(m.out_scale))
        count = sum(result.tensors[k].numel() for k in (m.module.up, m.module.down))
        uniform.append((count, step))
    assert numbers["mse"] == pytest.approx(total.mse)
    assert numbers["mae"] == pytest.approx(total.mae)
    assert numbers["snr_db"] == pytest.approx(total.snr_db)
    # Rounding to steps of s has a mean squared error of s^2/12 and a mean absolute error of s/4.
    elements = sum(count for count, _ in uniform)
    assert numbers["mse"] == pytest.approx(
        sum(n * s**2 / 12 for n, s in uniform) / elements, rel=0.1
    )
    assert numbers["mae"] == pytest.approx(sum(n * s / 4 for n, s in uniform) / elements, rel=0.1)


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
@pytest.mark.parametrize("mode", MODES)
def test_every_number_is_right_for_a_kohya_file(tmp_path: Path, mode: str, dtype: str) -> None:
    """Errors, energies, ranks, sizes and hashes, also of convolutions and untrained modules."""
    source, out = tmp_path / "a.safetensors", tmp_path / "out"
    small_lora(source, zero_modules=1, dtype=dtype)
    numbers = compress(source, out, mode=mode, min_saving=-1.0 if mode == "rank" else 0.0)
    confirm(source, out, numbers, None if mode == "int8" else 0.99)
    assert (numbers["naming"], numbers["dtype_in"]) == ("kohya", dtype)
    assert numbers["device"] == "cpu"
    if mode == "rank":
        assert numbers["dtype_out"] == {"F16": "F16", "BF16": "BF16", "F32": "F16"}[dtype]
        assert numbers["encodings"] == {"int8": 0, "float8": 0, "float": 6, "untouched": 0}
        assert {numbers[k] for k in ("snr_db", "mse", "mae", "delta_snr_db")} == {None}
    else:
        assert numbers["dtype_out"] == "I8"
        assert numbers["encodings"] == {"int8": 6, "float8": 0, "float": 0, "untouched": 0}
        confirm_quantization(source, out, numbers | {"mode": mode})


@pytest.mark.parametrize("mode", MODES)
def test_every_number_is_right_for_a_peft_file(tmp_path: Path, mode: str) -> None:
    """int8 adds an alpha per module and moves the adapter entry; with floats it is updated."""
    source, out = peft_lora(tmp_path / "a.safetensors"), tmp_path / "out"
    numbers = compress(source, out, mode=mode)
    confirm(source, out, numbers, None if mode == "int8" else 0.99)
    assert (numbers["naming"], numbers["dtype_in"]) == ("peft", "BF16")
    written, alphas = asking.metadata_of(out), [k for k in load_file(out) if k.endswith(".alpha")]
    if mode == "rank":
        assert not alphas
        assert json.loads(written["lora_adapter_metadata"])["transformer.r"] < 12
    else:
        assert len(alphas) == len(FLUX)
        assert "lora_adapter_metadata" not in written
        assert json.loads(written["lensd.adapter_metadata"])["transformer.r"] == 12


@pytest.mark.slow
def test_a_file_of_real_shapes_keeps_its_energy(tmp_path: Path) -> None:
    """Nearly all of the error is truncation; the quantization of ultra adds little."""
    source, out = tmp_path / "a.safetensors", tmp_path / "out"
    modules = [m for m in sd15() if "down_blocks.0.attentions.0" in m.path or "layers.3." in m.path]
    write_lora(source, rank=48, alpha=24, modules=modules, effective_rank=9)
    numbers = compress(source, out, min_saving=0.05)
    confirm(source, out, numbers, 0.99)
    assert numbers["family"] == "sd15"
    assert 0.05 < numbers["delta_error"] < 0.102
    assert numbers["delta_snr_db"] > 30
    assert size(source) / size(out) > 4


def test_other_tensors_and_metadata_are_copied_bit_for_bit(tmp_path: Path) -> None:
    """Tucker at its rank, DoRA, biases, orphans, unusual formats keep bytes, shape and dtype."""
    random = torch.Generator().manual_seed(0)
    others: making.Tensors = {
        "lora_unet_a.dora_scale": torch.randn(40, 1, generator=random).half(),
        "lora_unet_a.diff_b": torch.randn(40, generator=random).bfloat16(),
        "lora_unet_n.w_norm": torch.randn(3, generator=random),
        "lora_unet_t.lora_down.weight": torch.randn(4, 8, 1, 1, generator=random).half(),
        "lora_unet_t.lora_up.weight": torch.randn(8, 4, 1, 1, generator=random).half(),
        "lora_unet_t.lora_mid.weight": torch.randn(4, 4, 3, 3, generator=random).half(),
        "lora_unet_t.alpha": torch.tensor(3.0, dtype=torch.float64),
        "flags": torch.tensor([True, False, True]),
        "odd": torch.arange(5, dtype=torch.uint8),
        "steps": torch.tensor(17),
        "empty": torch.zeros(0, 3),
        "nan": torch.tensor([float("nan"), float("inf")]),
    }
    source, out = tmp_path / "a.safetensors", tmp_path / "out"
    entries = {"sshs_model_hash": "ab", "ss_network_dim": "8"}
    save_file(making.small_file() | others, source, entries)
    for mode in MODES:
        numbers = compress(source, out, mode=mode)
        found = load_file(out)
        for key, tensor in others.items():
            assert found[key].dtype == tensor.dtype
            assert found[key].shape == tensor.shape
            assert asking.bits(found[key]) == asking.bits(tensor)
        assert numbers["encodings"]["untouched"] == len(others)
        assert asking.metadata_of(out)["sshs_model_hash"] == "ab"
        assert_aligned(out)


def assert_aligned(path: Path) -> None:
    """Assert that the data begins at a multiple of 8 bytes, each tensor at one of its element."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    assert length % 8 == 0
    for key, entry in json.loads(data[8 : 8 + length]).items():
        if key != "__metadata__":
            assert entry["data_offsets"][0] % tensor_bytes(entry["dtype"], ()) == 0


@pytest.mark.parametrize("where", ["lora_down.weight", "lora_up.weight", "alpha"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_module_is_named(tmp_path: Path, temporary: Path, where: str, bad: float) -> None:
    """The reason is not_finite, and the temporary has no header."""
    tensors = making.small_file()
    tensors[f"lora_unet_b.{where}"].reshape(-1)[0] = bad
    source = tmp_path / "a.safetensors"
    save_file(tensors, source)
    with pytest.raises(Failed, match=r"1 of 4 modules .* lora_unet_b") as caught:
        compress(source, temporary)
    assert caught.value.reason == "not_finite"
    assert not any(temporary.read_bytes()[:8])


def test_too_little_saved_keeps_the_original(lora: Path, temporary: Path) -> None:
    """The reason is no_gain, no header is written, and the log gets the numbers known so far."""
    with pytest.raises(Kept, match="less than `min_saving`") as caught:
        compress(lora, temporary, mode="rank", min_saving=0.95)
    assert caught.value.reason == "no_gain"
    assert caught.value.measures.bytes_in == size(lora)
    assert not any(temporary.read_bytes()[:8])


def test_a_file_is_never_enlarged(tmp_path: Path, temporary: Path) -> None:
    """A file of rank 1 in floats is kept at any `min_saving`."""
    source = tmp_path / "a.safetensors"
    small_lora(source, rank=1)
    with pytest.raises(Kept):
        compress(source, temporary, mode="rank", min_saving=0.0)


def test_a_target_that_cannot_load_int8_is_named_in_the_message(
    lora: Path, temporary: Path
) -> None:
    """Mode int8 with the target diffusers keeps the original."""
    with pytest.raises(Kept, match="diffusers: not known to load 8 bits exactly"):
        compress(lora, temporary, mode="int8", targets=("diffusers",))


def test_too_large_an_error_keeps_the_original(lora: Path, temporary: Path) -> None:
    """max_error is compared with the measured error; a limit just above it compresses."""
    with pytest.raises(Kept) as caught:
        compress(lora, temporary, max_error=1e-3)
    assert caught.value.reason == "max_error"
    error = caught.value.measures.delta_error
    assert isinstance(error, float)
    assert compress(lora, temporary, max_error=error * 1.0001)["delta_error"] == error


def test_lensds_own_output_is_not_compressed_again(lora: Path, temporary: Path) -> None:
    """It is not analyzed either."""
    compress(lora, temporary)
    with pytest.raises(Skipped) as caught:
        task.compress(asking.output(temporary, temporary.with_name("again")))
    assert caught.value.reason == "already_compressed"
    with pytest.raises(Skipped) as caught:
        task.analyze(asking.analysis(temporary))
    assert caught.value.reason == "already_compressed"


def test_peft_files_with_an_adapter_config_are_skipped(tmp_path: Path, temporary: Path) -> None:
    """adapter_config.json fixes rank and alpha, and lensd changes no other file."""
    source = peft_lora(tmp_path / "a.safetensors")
    asked = asking.output(source, temporary, adapter_config=True)
    with pytest.raises(Skipped) as caught:
        task.compress(asked)
    assert caught.value.reason == "adapter_config"


def test_another_version_than_requested_is_not_read(lora: Path, temporary: Path) -> None:
    """A job is for one identity: the reason is `changed`."""
    asked = asking.output(lora, temporary)
    os.utime(lora, ns=(1, 1))
    with pytest.raises(Skipped) as caught:
        task.compress(asked)
    assert caught.value.reason == "changed"


STAGES = {"module": ("compress", "verify"), "file": ("spectrum", "reduce", "verify")}


@pytest.mark.parametrize(
    ("allocation", "stage"), [(a, stage) for a, stages in STAGES.items() for stage in stages]
)
@pytest.mark.parametrize("how", ["rewrite", "truncate", "touch"])
@pytest.mark.fault("truncated meanwhile")
def test_a_writer_meanwhile_is_noticed(
    lora: Path, temporary: Path, allocation: str, stage: str, how: str
) -> None:
    """At every stage the reason is `changed`, never that of a broken file or a bug."""

    def meddle(at: str, done: int, _: int) -> None:
        if (at, done) == (stage, 1):
            if how == "rewrite":
                with lora.open("r+b") as file:
                    file.seek(size(lora) // 2)
                    file.write(b"\x7f" * (size(lora) // 2))
            elif how == "truncate":
                os.truncate(lora, size(lora) // 2)
            else:
                os.utime(lora, ns=(1, 1))

    with pytest.raises(Skipped) as caught:
        task.compress(asking.output(lora, temporary, allocation=allocation), meddle)
    assert caught.value.reason == "changed"


def test_a_writer_during_an_analysis_is_noticed(lora: Path) -> None:
    """Measures of a file that is no longer there are not reported."""
    with pytest.raises(Skipped) as caught:
        task.analyze(asking.analysis(lora), lambda *_: os.utime(lora, ns=(1, 1)))
    assert caught.value.reason == "changed"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("where", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("allocation", STAGES)
def test_a_disk_that_writes_something_else_is_noticed(
    tmp_path: Path, temporary: Path, mode: str, where: float, allocation: str
) -> None:
    """The reason is verify_failed: the bytes read back differ from those written."""
    source = tmp_path / "source.safetensors"
    small_lora(source, rank=32)

    def corrupt(at: str, done: int, _: int) -> None:
        if at in {"compress", "reduce"} and done == 6:
            with temporary.open("r+b") as file:
                start = len(file.read()) - len(temporary.read_bytes().lstrip(b"\0"))
                file.seek(start + int((size(temporary) - start - 40) * where))
                file.write(b"\x3a" * 40)

    asked = asking.output(source, temporary, mode=mode, min_saving=0.0, allocation=allocation)
    with pytest.raises(Failed, match="differs from what was written") as caught:
        task.compress(asked, corrupt)
    assert caught.value.reason == "verify_failed"


@pytest.mark.parametrize("allocation", STAGES)
def test_progress_counts_each_stage_to_its_end(
    lora: Path, temporary: Path, allocation: str
) -> None:
    """All stages but the last count modules, the last one counts tensors of the output."""
    reported: list[tuple[str, int, int]] = []
    asked = asking.output(lora, temporary, allocation=allocation)
    measured = task.compress(asked, lambda *line: reported.append(line))
    for stage in STAGES[allocation]:
        counts = [line[1:] for line in reported if line[0] == stage]
        of = counts[0][1]
        assert counts == [(done, of) for done in range(1, of + 1)]
        assert stage == "verify" or of == measured.modules
    assert tuple(dict.fromkeys(line[0] for line in reported)) == STAGES[allocation]


def test_the_same_file_gives_the_same_bytes(lora: Path, temporary: Path) -> None:
    """In every run, with one core and with all of them."""
    cores = os.sched_getaffinity(0)
    for mode in MODES:
        numbers = compress(lora, temporary, mode=mode, min_saving=-1.0)
        assert (
            compress(lora, temporary, mode=mode, min_saving=-1.0)["sha256_out"]
            == numbers["sha256_out"]
        )
        try:
            os.sched_setaffinity(0, {min(cores)})
            alone = compress(lora, temporary, mode=mode, min_saving=-1.0)
        finally:
            os.sched_setaffinity(0, cores)
        assert alone["sha256_out"] == numbers["sha256_out"]
        assert same_numbers(alone) == same_numbers(numbers)


@pytest.mark.parametrize("mode", MODES)
def test_cores_that_do_not_fit_in_memory_are_computed_again(
    lora: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """The first pass keeps cores for the second up to a limit; the bytes are always the same."""
    kept = compress(lora, temporary, mode=mode, min_saving=-1.0, allocation="file")
    for room in (0, 5_000):
        monkeypatch.setattr(passes, "KEPT_BYTES", room)
        again = compress(lora, temporary, mode=mode, min_saving=-1.0, allocation="file")
        assert same_numbers(again) == same_numbers(kept)


def same_numbers(numbers: Numbers) -> Numbers:
    return {k: v for k, v in numbers.items() if k != "seconds"}


@pytest.mark.parametrize("naming", ["kohya", "peft"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"allocation": "file"},
        {"allocation": "balanced"},
        {"max_rank": 3},
        {"constant_rank": True},
        {"target_size": 9_000},
        {"target_size": 9_000, "allocation": "balanced"},
    ],
    ids=str,
)
def test_predicted_bytes_are_what_each_mode_writes(
    tmp_path: Path, naming: str, settings: dict[str, Any]
) -> None:
    """They are equal to the byte, and analyze changes nothing."""
    source, out = tmp_path / "a.safetensors", tmp_path / "out"
    if naming == "peft":
        peft_lora(source)
    else:
        small_lora(source)
    before = source.read_bytes()
    found = task.analyze(asking.analysis(source, mode="rank", **settings))
    assert source.read_bytes() == before
    for mode in MODES:
        try:
            compress(source, out, mode=mode, **settings)
        except Kept:  # then the original stays
            assert getattr(found.predicted, mode) == size(source)
        else:
            assert getattr(found.predicted, mode) == size(out) < size(source)


def test_analyze_measures_what_ultra_would_do(lora: Path, temporary: Path) -> None:
    """It has the numbers of a real run, and with `details` the spectrum of each module."""
    found = msgspec.to_builtins(task.analyze_in_detail(asking.analysis(lora, mode="ultra")))
    numbers = compress(lora, temporary)
    for key in ("delta_error", "delta_error_max", "snr_db", "mse", "mae", "delta_snr_db"):
        assert found[key] == pytest.approx(numbers[key], rel=1e-5)
    for key in ("rank_in", "rank_out", "energy_retained", "modules", "family", "sha256_in"):
        assert found[key] == numbers[key]
    details = {d["module"]: d for d in found["details"]}
    for name, delta in deltas(lora).items():
        values = making.spectrum(delta)
        detail = details[name]
        spectrum = torch.tensor(detail["spectrum"]).double()
        assert torch.allclose(spectrum, values[: len(spectrum)], rtol=1e-4, atol=1e-7)
        assert detail["norm"] == pytest.approx(float(delta.norm()))
        assert (detail["out"], detail["in"]) == tuple(delta.shape)
        assert detail["ranks"]["0.99"] == asking.rank_of(temporary)[name]


@pytest.mark.parametrize("mode", ["rank", "ultra"])
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("naming", ["kohya", "peft"])
def test_target_size_is_kept_and_used(
    tmp_path: Path,
    naming: str,
    mode: str,
    constant: bool,  # noqa: FBT001
) -> None:
    """The file, header and marks included, fits; and little room is left over."""
    source, out = tmp_path / "a.safetensors", tmp_path / "out"
    if naming == "peft":
        peft_lora(source)
    else:
        small_lora(source)
    ranks = asking.rank_of(source)
    bare = least_size(source, out, mode)
    for share in (0.3, 0.6, 0.8):
        target = int(bare + share * (size(source) - bare) / (2 if mode == "ultra" else 1))
        options: dict[str, Any] = {"target_size": target, "constant_rank": constant}
        compress(source, out, mode=mode, min_saving=-1.0, **options)
        assert size(out) <= target
        assert all(k <= ranks[name] for name, k in asking.rank_of(out).items())
        one_more = 2 * sum(sum(d.shape) for d in deltas(source).values())
        assert target - size(out) <= (one_more if constant else 4096)


def least_size(source: Path, out: Path, mode: str) -> int:
    compress(source, out, mode=mode, max_rank=1, min_saving=-1.0)
    return size(out)


def test_a_target_below_rank_1_gives_rank_1(lora: Path, temporary: Path) -> None:
    """No module is ever dropped."""
    compress(lora, temporary, target_size=100)
    assert set(asking.rank_of(temporary).values()) == {1}


def test_file_allocation_needs_no_more_bytes_for_the_same_energy(tmp_path: Path) -> None:
    """On a file of real shapes it saves over a tenth."""
    source, out = tmp_path / "a.safetensors", tmp_path / "out"
    modules = [m for m in sd15() if "up_blocks.1.attentions.0" in m.path]
    write_lora(source, rank=48, alpha=24, modules=modules, effective_rank=10)
    by_module = compress(source, out, allocation="module")
    by_file = compress(source, out, allocation="file")
    assert by_file["energy_retained"]["overall"] >= 0.99
    assert by_file["bytes_out"] < 0.9 * by_module["bytes_out"]
    assert by_file["delta_error"] < 0.103


def test_names_that_are_not_utf8_are_processed(lora: Path, tmp_path: Path) -> None:
    """Folder, file and temporary."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    source, out = folder / os.fsdecode(b"\xff.safetensors"), folder / os.fsdecode(b".\xfe")
    lora.rename(source)
    numbers = compress(source, out)
    source, out = source.rename(lora), out.rename(tmp_path / "out")  # readable for the judge
    confirm(source, out, numbers, 0.99)
    assert "caf" not in asking.metadata_of(out)["lensd.original_name"]


def test_too_little_memory_is_a_reason_and_no_bug(lora: Path) -> None:
    """What torch's CPU allocator says has no class of its own."""
    asked = asking.analysis(lora)

    def work(_: passes.Engine) -> Analyzed:
        torch.empty(1 << 50)
        raise AssertionError("there is that much memory")

    with Source.open(str(lora)) as source, pytest.raises(Failed) as caught:
        best_device.compute_on_best_device(source, asked, work, task.no_progress)
    assert caught.value.reason == "out_of_memory"


def test_a_second_try_finds_the_temporary_empty(lora: Path, temporary: Path) -> None:
    """After the GPU ran out of memory half-way; a file that took its place is not touched."""
    asked = asking.output(lora, temporary)
    temporary.write_bytes(b"half an output")
    empty_temporary(asked.temporary, asked.temporary_inode)
    assert size(temporary) == 0
    other = temporary.with_name("other")
    other.write_bytes(b"somebody else's")
    other.rename(temporary)
    empty_temporary(asked.temporary, asked.temporary_inode)
    assert temporary.read_bytes() == b"somebody else's"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_missing_gpu_is_said_and_done_without(lora: Path, temporary: Path) -> None:
    """device: cuda on a machine that lost it."""
    numbers = compress(lora, temporary, device="cuda")
    assert numbers["device"] == "cpu"
    assert "no cuda here" in numbers["device_note"]


def test_no_descriptor_is_left_open(lora: Path, temporary: Path, tmp_path: Path) -> None:
    """After success, refusal and failure."""
    broken = tmp_path / "b.safetensors"
    save_file({"lora_unet_x.lora_down.weight": torch.ones(2, 2)}, broken)
    compress(lora, temporary)
    descriptors = Descriptors()
    compress(lora, temporary)
    with pytest.raises(Kept):
        compress(lora, temporary, max_error=0.0)
    with pytest.raises(Skipped):
        compress(broken, temporary)
    assert [] == descriptors.opened()


@pytest.mark.slow
def test_real_files_stay_within_their_energy(shared: Path, tmp_path: Path) -> None:
    """Each small trained file of the corpus is checked, in any naming."""
    done, out = 0, tmp_path / "out"
    for source in sorted((shared / "corpus").glob("*.safetensors")):
        numbers = compress(source, out, energy=0.95, float32="float16")
        done += 1
        lost = 1 - numbers["energy_retained"]["overall"]
        assert numbers["energy_retained"]["min"] >= 0.95
        assert numbers["delta_error"] == pytest.approx(math.sqrt(lost), abs=0.01)
        old, new = deltas(source), deltas(out)
        if old and done % 2:
            errors = math.fsum(float((old[n] - new[n]).square().sum()) for n in old)
            energy = math.fsum(float(d.square().sum()) for d in old.values())
            expected = math.sqrt(errors / energy)
            assert numbers["delta_error"] == pytest.approx(expected, rel=1e-5)
    assert done >= 4


def test_blocks_and_spectrum_are_those_of_the_files(lora: Path, temporary: Path) -> None:
    """They equal median ranks of both files' tensors, and energies of full matrices."""
    numbers = compress(lora, temporary, mode="rank")
    before, after = asking.rank_of(lora), asking.rank_of(temporary)
    named = {name: str(blocks.block_of(name)) for name in before}
    reported = {
        part if number is None else f"{part}.{number}": rest
        for part, found in numbers["blocks"].items()
        for number, *rest in found
    }
    assert set(reported) == set(named.values())
    for block, (modules, rank_in, rank_out) in reported.items():
        names = [name for name in before if named[name] == block]
        assert len(names) == modules
        assert statistics.median(before[name] for name in names) == rank_in
        assert statistics.median(after[name] for name in names) == rank_out
    squares = [torch.linalg.svdvals(delta).square() for delta in deltas(lora).values()]
    total = sum(float(s.sum()) for s in squares)
    for rank, energy in zip(*numbers["spectrum"].values(), strict=True):
        assert sum(float(s[:rank].sum()) for s in squares) / total == pytest.approx(
            energy, abs=1e-4
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("modules", "naming"), [(sdxl_kohya(), "kohya"), (flux_peft(), "peft"), (sd15(), "kohya")]
)
def test_a_large_model_has_a_short_line(
    tmp_path: Path, temporary: Path, modules: list[Module], naming: str
) -> None:
    """With all blocks of SDXL, FLUX or SD 1.5, paths and hashes, it is shorter than 3 kB."""
    path = tmp_path / "large.safetensors"
    write_lora(path, "", naming, 4, modules=modules)
    numbers = compress(path, temporary, mode="ultra", energy=0.8)
    assert len(json.dumps(numbers)) < 2600


def test_a_module_that_fits_no_layer_of_the_family_is_reported(tmp_path: Path) -> None:
    """The file is compressed, and the measures have a warning that they otherwise lack."""
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    source, out = tmp_path / "a.safetensors", tmp_path / "out"
    up, down = making.factors("decaying", 320, 768, 32, 0)
    tensors = making.kohya(name, Made(up.half(), down.half(), 32.0))
    save_file(tensors, source)
    assert "warnings" not in compress(source, out)
    up, down = making.factors("decaying", 321, 768, 32, 1)
    tensors |= making.kohya(name.replace("to_k", "to_v"), Made(up.half(), down.half(), 32.0))
    save_file(tensors, source)
    [warning] = compress(source, out)["warnings"]
    assert "attn2_to_v (out 321, in 768)" in warning
    assert task.analyze(asking.analysis(source)).warnings == [warning]
