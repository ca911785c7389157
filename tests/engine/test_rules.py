"""The rules by which a reduced file loads correctly in every program, on outputs of every mode."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.engine import asking
from tests.engine.asking import MODES
from tests.lora import making
from tests.lora.making import Made, Tensors
from tests.support.realistic import small_lora

FLUX_NAMES = (
    "transformer.transformer_blocks.0.attn.to_q",
    "transformer.transformer_blocks.0.attn.add_q_proj",
    "transformer.single_transformer_blocks.0.attn.to_q",
    "transformer.single_transformer_blocks.0.proj_out",
)


def pair(seed: int, alpha: float | None, rank: int = 8) -> Made:
    up, down = making.factors("random" if seed == 1 else "decaying", 120, 64, rank, seed)
    return Made(up.half(), (down * 3.0**seed).half(), alpha)


def run(
    tmp_path: Path, tensors: Tensors, entries: dict[str, str] | None = None, **options: object
) -> Tensors:
    source, out = tmp_path / "a.safetensors", tmp_path / "out"
    save_file(tensors, source, {"format": "pt"} | (entries or {}))
    asking.compress(source, out, min_saving=-1.0, **options)
    return load_file(out)


def kohya_file() -> Tensors:
    """Return modules with two alphas, among them a text encoder's out_proj and an untrained one."""
    names = ["lora_unet_a", "lora_unet_b", "lora_te_text_model_encoder_layers_0_self_attn_out_proj"]
    tensors: Tensors = {}
    for at, name in enumerate(names):
        tensors |= making.kohya(name, pair(at, 4.0 if at else 16.0))
    untrained = pair(0, 4.0)._replace(up=torch.zeros(120, 8).half())
    return tensors | making.kohya("lora_unet_z", untrained)


def peft_file(alpha: float | None = None, *, mixed: bool = True) -> Tensors:
    """Return four modules of rank 8, or of ranks 8 to 11 if `mixed`."""
    tensors: Tensors = {}
    for at, name in enumerate(FLUX_NAMES):
        tensors |= making.peft(name, pair(at, None, rank=8 + at * mixed))
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(alpha)
    return tensors


def assert_same_meaning(before: Tensors, after: Tensors) -> None:
    old, new = making.meaning(before), making.meaning(after)
    assert set(old) == set(new)
    for name, delta in old.items():
        assert making.distance(delta, new[name]) < 0.12


def as_diffusers_reads(tensors: Tensors, name: str, alpha: float) -> torch.Tensor:
    """Return the delta weight of a module with `alpha` in place of its own."""
    up, down = tensors[f"{name}.lora_up.weight"], tensors[f"{name}.lora_down.weight"]
    return alpha / down.shape[0] * making.product(up, down)


@pytest.mark.parametrize("targets", [("comfyui",), ("diffusers",)])
def test_rule_1_one_alpha_value_for_all_modules_float32_without_dimensions(
    tmp_path: Path, targets: tuple[str, ...]
) -> None:
    """`up` is rescaled, so a program may use the alpha of one module for all."""
    before = kohya_file()
    after = run(tmp_path, before, mode="rank", targets=targets)
    alphas = [t for k, t in after.items() if k.endswith(".alpha")]
    assert len(alphas) == 4
    assert {(a.dtype, a.dim(), float(a)) for a in alphas} == {(torch.float32, 0, 4.0)}
    for name, delta in making.meaning(before).items():
        assert making.distance(delta, as_diffusers_reads(after, name, 4.0)) < 0.12


def test_rule_2_peft_files_of_different_ranks_have_them_in_their_entry(tmp_path: Path) -> None:
    """Without the entry, diffusers before 0.40 scales by the first rank / the module's rank."""
    entries = {
        "lora_adapter_metadata": json.dumps({"transformer.r": 8, "transformer.lora_alpha": 8})
    }
    for given in (entries, {}):
        after = run(tmp_path, peft_file(), given, mode="rank", energy=0.9999)
        ranks = {n: after[f"{n}.lora_A.weight"].shape[0] for n in FLUX_NAMES}
        assert len(set(ranks.values())) > 1
        entry = json.loads(asking.metadata_of(tmp_path / "out")["lora_adapter_metadata"])
        for name, rank in ranks.items():
            own = name.removeprefix("transformer.")
            assert entry["transformer.rank_pattern"].get(own, entry["transformer.r"]) == rank


def test_rule_2_a_constant_rank_is_possible(tmp_path: Path) -> None:
    """FLUX in kohya's naming loads correctly in diffusers before 0.40 only with one rank."""
    for before in (kohya_file(), peft_file(mixed=False)):
        after = run(tmp_path, before, mode="rank", constant_rank=True, energy=0.9)
        downs = [t for k, t in after.items() if k.endswith(("lora_down.weight", "lora_A.weight"))]
        assert len({t.shape[0] for t in downs}) == 1
        for name, delta in making.meaning(before).items():
            assert making.distance(delta, making.meaning(after)[name]) < 0.33


@pytest.mark.parametrize("mode", MODES)
def test_rule_3_no_outdated_adapter_entry_and_none_beside_alphas(tmp_path: Path, mode: str) -> None:
    """The entry has the output's ranks and the same scales, or it is moved to a mark."""
    fields: dict[str, object] = {"transformer.r": 8, "transformer.lora_alpha": 4}
    pattern = {n.removeprefix("transformer."): 8 + at for at, n in enumerate(FLUX_NAMES) if at}
    fields |= {"transformer.rank_pattern": pattern, "transformer.alpha_pattern": {}}
    after = run(tmp_path, peft_file(), {"lora_adapter_metadata": json.dumps(fields)}, mode=mode)
    found = asking.metadata_of(tmp_path / "out")
    if mode != "rank":
        assert any(k.endswith(".alpha") for k in after)
        assert "lora_adapter_metadata" not in found
        assert json.loads(found["lensd.adapter_metadata"]) == fields
        return
    entry = json.loads(found["lora_adapter_metadata"])
    for at, name in enumerate(FLUX_NAMES):
        own, rank = name.removeprefix("transformer."), after[f"{name}.lora_A.weight"].shape[0]
        assert entry["transformer.rank_pattern"].get(own, entry["transformer.r"]) == rank
        alpha = entry["transformer.alpha_pattern"].get(own, entry["transformer.lora_alpha"])
        assert alpha / rank == pytest.approx(4 / (8 + at))


@pytest.mark.parametrize("targets", [("comfyui", "forge"), ("diffusers",)])
def test_rule_4_peft_floats_gain_no_alpha_and_mean_scale_1(
    tmp_path: Path, targets: tuple[str, ...]
) -> None:
    """lora_B is rescaled; if the file has alphas, they stay equal."""
    before = peft_file()
    after = run(tmp_path, before, mode="rank", targets=targets)
    assert set(after) == set(before)
    for name in FLUX_NAMES:
        old, new = (
            making.product(t[f"{name}.lora_B.weight"], t[f"{name}.lora_A.weight"])
            for t in (before, after)
        )
        assert making.distance(old, new) < 0.12
    after = run(tmp_path, peft_file(alpha=4.0), mode="rank", targets=targets)
    assert {float(after[f"{n}.alpha"]) for n in FLUX_NAMES} == {4.0}
    assert_same_meaning(peft_file(alpha=4.0), after)


@pytest.mark.parametrize("mode", MODES)
def test_rule_5_no_module_is_dropped_and_no_rank_is_0(tmp_path: Path, mode: str) -> None:
    """Untrained modules and out_proj of text encoders stay, and each alpha has its module."""
    for before in (kohya_file(), peft_file()):
        for options in ({"energy": 0.5}, {"max_rank": 1}, {"target_size": 1}):
            after = run(tmp_path, before, mode=mode, **options)
            assert set(before) <= set(after)
            assert all(0 not in t.shape for t in after.values())
            bases = {k.removesuffix(".alpha") for k in after if k.endswith(".alpha")}
            for base in bases:
                assert {f"{base}.lora_down.weight", f"{base}.lora_A.weight"} & set(after)


@pytest.mark.parametrize("mode", MODES)
def test_rule_6_no_tensor_is_added_but_an_alpha_per_int8_module_of_a_peft_file(
    tmp_path: Path, mode: str
) -> None:
    """No tensor has a scale: lensd's marks are in the metadata."""
    for before in (kohya_file(), peft_file(alpha=4.0)):
        assert set(run(tmp_path, before, mode=mode)) == set(before)
    extra = set(run(tmp_path, peft_file(), mode=mode)) - set(peft_file())
    assert extra == (set() if mode == "rank" else {f"{n}.alpha" for n in FLUX_NAMES})
    assert "lensd.original_sha256" in asking.metadata_of(tmp_path / "out")


@pytest.mark.parametrize("mode", MODES)
def test_rule_7_alphas_are_float32(tmp_path: Path, mode: str) -> None:
    """float16 would lose digits: the alpha of an int8 module is near 1e-5."""
    tensors = making.kohya("lora_unet_a", pair(0, 4.0)) | making.kohya("lora_unet_b", pair(1, 8.0))
    tensors |= making.kohya("lora_unet_tiny", pair(0, 2.0**-16))
    after = run(tmp_path, tensors, mode=mode)
    alphas = {k: t for k, t in after.items() if k.endswith(".alpha")}
    assert len(alphas) == 3
    assert all(t.dtype == torch.float32 and float(t) != 0 for t in alphas.values())
    assert_same_meaning(tensors, after)


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
def test_all_rules_at_once_on_a_file_of_small_layers(tmp_path: Path, dtype: str) -> None:
    """The file has text encoders, convolutions and an untrained module."""
    source, out = tmp_path / "a.safetensors", tmp_path / "out"
    small_lora(source, dtype=dtype, zero_modules=1)
    asking.compress(source, out, mode="rank", min_saving=-1.0)
    before, after = load_file(source), load_file(out)
    assert set(after) == set(before)
    assert {float(t) for k, t in after.items() if k.endswith(".alpha")} == {8.0}
    assert all(0 not in t.shape for t in after.values())
