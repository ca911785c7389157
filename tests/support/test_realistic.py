"""Generated LoRA files: what they claim to be is what lies on disk."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from tests.support import spectra
from tests.support.architectures import Module
from tests.support.lora_file import NAMINGS
from tests.support.realistic import SMALL_MODULES, small_lora, write_lora


def rank_at_99_percent(values: spectra.Floats) -> int:
    energy = np.cumsum(values**2) / np.sum(values**2)
    return int(np.searchsorted(energy, 0.99)) + 1


@given(st.sampled_from(sorted(spectra.PROFILES)), st.integers(4, 128), st.data())
def test_a_spectrum_holds_99_percent_in_its_effective_rank(
    profile: str, rank: int, data: st.DataObject
) -> None:
    """Every profile reaches what is asked, falls, and has unit norm."""
    effective = data.draw(st.integers(2, rank // 2))
    values = spectra.spectrum(profile, rank, effective)
    assert np.all(np.diff(values) <= 0)
    assert np.isclose(np.linalg.norm(values), 1.0)
    assert np.sum(values[:effective] ** 2) == pytest.approx(0.99, abs=1e-6)


@pytest.mark.parametrize("naming", ["kohya", "peft"])
@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
def test_a_small_file_means_its_deltas(tmp_path: Path, naming: str, dtype: str) -> None:
    """The tensors that the safetensors library reads give exactly the deltas that are promised."""
    made = small_lora(tmp_path / "a.safetensors", naming=naming, dtype=dtype, rank=16, alpha=8.0)
    tensors, suffixes = load_file(made.path), NAMINGS[naming]
    assert len(made.deltas) == len(SMALL_MODULES)
    for name, delta in made.deltas.items():
        up = tensors[name + suffixes.up].double().flatten(1)
        down = tensors[name + suffixes.down].double().flatten(1)
        assert up.shape[1] == down.shape[0] == 16
        torch.testing.assert_close(8.0 / 16 * up @ down, delta, rtol=0, atol=1e-15)


def test_spectra_of_a_small_file_are_those_of_its_deltas(tmp_path: Path) -> None:
    """16 singular values per module, then nothing: the rank is the file's."""
    made = small_lora(tmp_path / "a.safetensors", rank=16)
    for name, values in made.spectra().items():
        assert np.linalg.norm(values) == pytest.approx(made.deltas[name].norm().item())
        assert values[15] > 1e-6
        assert np.all(values[16:] < 1e-12)


def test_alpha_is_where_its_naming_has_it(tmp_path: Path) -> None:
    """kohya: a scalar tensor per module. peft: an entry of the header; none if it is the rank."""
    kohya = load_file(small_lora(tmp_path / "k.safetensors", alpha=4.0).path)
    alphas = [tensor for name, tensor in kohya.items() if name.endswith(".alpha")]
    assert [(a.item(), a.shape) for a in alphas] == [(4.0, ())] * len(SMALL_MODULES)

    peft = small_lora(tmp_path / "p.safetensors", naming="peft", alpha=4.0).path
    with safe_open(peft, framework="numpy") as file:
        adapter = json.loads(file.metadata()["lora_adapter_metadata"])
    assert (adapter["unet.r"], adapter["unet.lora_alpha"]) == (16, 4.0)

    silent = small_lora(tmp_path / "s.safetensors", naming="peft", alpha=None).path
    with safe_open(silent, framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}


def test_untrained_modules_have_a_zero_up_and_a_start_of_down(tmp_path: Path) -> None:
    made = small_lora(tmp_path / "a.safetensors", zero_modules=2)
    zero = [name for name, delta in made.deltas.items() if not delta.any()]
    assert zero == sorted(made.deltas)[-2:]
    assert load_file(made.path)[zero[0] + ".lora_down.weight"].any()


def test_a_rank_above_a_side_is_written_with_the_right_delta(tmp_path: Path) -> None:
    """Rank 100 in a layer of 64 x 48 has 48 singular values, and factors of 100."""
    layer = Module("unet", "mid_block.attentions.0.transformer_blocks.0.attn2.to_k", 64, 48)
    made = small_lora(tmp_path / "a.safetensors", rank=100, modules=[layer], dtype="F32")
    (name, values), *_ = made.spectra().items()
    assert load_file(made.path)[name + ".lora_up.weight"].shape == (64, 100)
    assert values.shape == (48,)
    assert rank_at_99_percent(values) < 30


def test_the_same_arguments_write_the_same_bytes(tmp_path: Path) -> None:
    first = small_lora(tmp_path / "a.safetensors", seed=3).path.read_bytes()
    assert first == small_lora(tmp_path / "b.safetensors", seed=3).path.read_bytes()
    assert first != small_lora(tmp_path / "c.safetensors", seed=4).path.read_bytes()


def test_torch_threads_are_given_back(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        small_lora(tmp_path / "a.safetensors")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_the_real_size_file_is_what_people_download(tmp_path: Path) -> None:
    """144 MiB of SD1.5 at rank 128: whole, hashed as kohya does, spectra as in trained files."""
    made = write_lora(tmp_path / "a.safetensors")
    data = made.path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    assert made.size == len(data)
    assert len(data) - header == 144 * 2**20 + 264 * 2  # the factors, and an alpha per module
    digest = hashlib.sha256(data[header:]).hexdigest()
    with safe_open(made.path, framework="numpy") as file:
        assert made.data_sha256 == file.metadata()["sshs_model_hash"] == digest
        assert len(file.keys()) == 264 * 3

    ranks = [rank_at_99_percent(values) for values in made.spectra.values()]
    assert 20 <= np.median(ranks) <= 28
    assert min(ranks) < 12
    assert max(ranks) > 60

    tensors = load_file(made.path)
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_2"
    up, down = tensors[name + ".lora_up.weight"], tensors[name + ".lora_down.weight"]
    stored = torch.linalg.svdvals(0.5 * up.double() @ down.double())[:128].numpy()
    np.testing.assert_allclose(stored, made.spectra[name], rtol=5e-3)
    # training moves up from zero, and leaves down about where its random start was
    assert up.double().std() < 1.5 * down.double().std()
