"""lensd.engine.compare: two real files of any encodings, ranks and namings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lensd.engine.compare import compare
from lensd.engine.expand import expand, load_file
from lensd.errors import UsageError
from tests.engine import asking
from tests.lora import making
from tests.lora.making import Made, Tensors


def write(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> str:
    save_file(tensors, path, metadata)
    return str(path)


@pytest.mark.parametrize("mode", asking.MODES)
def test_an_output_has_the_error_that_was_reported(tmp_path: Path, mode: str) -> None:
    """Overall and in the worst module; ranks and names of both sides are listed."""
    source, out = tmp_path / "a.safetensors", tmp_path / "out.safetensors"
    write(source, making.small_file())
    reported = asking.compress(source, out, mode=mode)
    found = compare(str(source), str(out))
    assert found.modules == reported["modules"] == len(found.per_module)
    assert found.delta_error == pytest.approx(reported["delta_error"], rel=1e-6)
    worst = max(m.delta_error or 0.0 for m in found.per_module)
    assert worst == pytest.approx(reported["delta_error_max"], rel=1e-6)
    assert (found.only_in_a, found.only_in_b) == ([], [])
    ranks = asking.rank_of(out)
    assert all(m.rank_b == ranks[m.module_b] for m in found.per_module)
    assert found.delta_error is not None
    snr = -20 * torch.log10(torch.tensor(found.delta_error)).item()
    assert found.snr_db == pytest.approx(snr, rel=1e-4)


def test_a_file_has_no_error_relative_to_itself(tmp_path: Path) -> None:
    """The error is exactly 0, so there is no SNR."""
    path = write(tmp_path / "a.safetensors", making.small_file())
    found = compare(path, path)
    assert (found.delta_error, found.snr_db) == (0.0, None)


def test_the_same_module_in_three_namings_has_no_error(tmp_path: Path) -> None:
    """The scale is an alpha in kohya's, in the header in peft's, in `up` in old diffusers' file."""
    up, down = making.factors("random", 24, 16, 4, 0)
    block = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    flat = "lora_unet_" + f"{block}.to_out.0".replace(".", "_")
    kohya = write(tmp_path / "kohya", making.kohya(flat, Made(up, down, 2.0)))
    entry = {"lora_adapter_metadata": json.dumps({"unet.r": 4, "unet.lora_alpha": 2})}
    plain = Made(up, down, None)
    peft = write(tmp_path / "peft", making.peft(f"unet.{block}.to_out.0", plain), entry)
    old = f"{block}.processor.to_out_lora"
    processor = write(tmp_path / "old", {f"{old}.up.weight": up / 2, f"{old}.down.weight": down})
    for other in (peft, processor):
        found = compare(kohya, other)
        assert found.modules == 1
        assert found.delta_error is not None
        assert found.delta_error < 1e-12


def test_a_module_in_only_one_file_is_named_and_counts_in_the_overall_error(
    tmp_path: Path,
) -> None:
    """delta_error_common is the error of the modules in both files."""
    tensors = making.small_file()
    part = {k: t for k, t in tensors.items() if not k.startswith("lora_unet_a.")}
    whole, less = write(tmp_path / "a", tensors), write(tmp_path / "b", part)
    energies = {n: float(d.square().sum()) for n, d in making.meaning(tensors).items()}
    lost = compare(whole, less)
    assert (lost.only_in_a, lost.only_in_b, lost.modules) == (["lora_unet_a"], [], 3)
    share = energies["lora_unet_a"] / sum(energies.values())
    assert lost.delta_error == pytest.approx(share**0.5, rel=1e-9)
    assert lost.delta_error_common == 0
    added = compare(less, whole)
    assert (added.only_in_a, added.only_in_b) == ([], ["lora_unet_a"])
    rest = sum(energies.values()) - energies["lora_unet_a"]
    assert added.delta_error == pytest.approx((energies["lora_unet_a"] / rest) ** 0.5, rel=1e-9)
    other = {k: t for k, t in tensors.items() if k.startswith("lora_unet_a.")}
    none = compare(less, write(tmp_path / "c", other))
    assert (none.modules, none.delta_error_common) == (0, None)


def test_a_difference_from_zeros_has_no_relative_error(tmp_path: Path) -> None:
    """The module in A is untrained."""
    up, down = making.factors("random", 24, 16, 4, 0)
    zero = write(tmp_path / "a", making.kohya("lora_unet_x", Made(up * 0, down, 1.0)))
    some = write(tmp_path / "b", making.kohya("lora_unet_x", Made(up, down, 1.0)))
    found = compare(zero, some)
    assert found.delta_error is None
    assert found.per_module[0].delta_error is None


def test_an_entry_that_cannot_be_read_is_a_usage_error(tmp_path: Path) -> None:
    """With a wrong strength every number would be wrong."""
    up, down = making.factors("random", 24, 16, 4, 0)
    text = json.dumps({"unet.r": 4, "unet.alpha_pattern": {"(a|b)": 3}})
    tensors = making.peft("unet.x", Made(up, down, None))
    path = write(tmp_path / "a", tensors, {"lora_adapter_metadata": text})
    with pytest.raises(UsageError, match="strength"):
        compare(path, path)


@pytest.mark.parametrize("kind", ["LoHa", "LoKr", "Tucker"])
def test_modules_that_are_no_pairs_are_compared_too(tmp_path: Path, kind: str) -> None:
    """As programs compute them: with an output, with themselves, and with a pair of equal meaning.

    Such files are no 8-bit files, which `expand` says, and load_file returns them as they are.
    """
    source, out = tmp_path / "a.safetensors", tmp_path / "out.safetensors"
    tensors, delta = COMPOSITES[kind]()
    write(source, {f"{NAME}.{part}": t for part, t in tensors.items()})
    reported = asking.compress(source, out, mode="rank", energy=0.9)
    assert reported["delta_error"] > 0
    found = compare(str(source), str(out))
    assert (found.modules, found.only_in_a, found.only_in_b) == (1, [], [])
    assert found.delta_error == pytest.approx(reported["delta_error"], rel=1e-6)
    assert compare(str(out), str(out)).delta_error == 0.0
    eye = torch.eye(len(delta)).reshape(len(delta), len(delta), *[1] * (delta.dim() - 2))
    pair = {f"{NAME}.lora_up.weight": eye, f"{NAME}.lora_down.weight": delta.contiguous()}
    same = compare(str(source), write(tmp_path / "pair.safetensors", pair))
    assert same.delta_error == pytest.approx(0.0, abs=1e-6)
    loaded = load_file(out)
    assert loaded.keys() == {f"{NAME}.{part}" for part in tensors}
    with pytest.raises(UsageError, match="nothing to expand"):
        expand(str(out), str(tmp_path / "none"), (0, 0))


def _normal(*shape: int) -> torch.Tensor:
    seed = sum(size * 7**at for at, size in enumerate(shape))
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def _loha() -> tuple[Tensors, torch.Tensor]:
    w = [_normal(24, 4), _normal(4, 40), _normal(24, 3), _normal(3, 40)]
    names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "alpha")
    alpha = torch.tensor(2.0)
    return dict(zip(names, [*w, alpha], strict=True)), 0.5 * (w[0] @ w[1]) * (w[2] @ w[3])


def _lokr() -> tuple[Tensors, torch.Tensor]:
    first, left, right = _normal(4, 5), _normal(60, 2), _normal(2, 80)
    tensors = {"lokr_w1": first, "lokr_w2_a": left, "lokr_w2_b": right, "alpha": torch.tensor(1.0)}
    return tensors, 0.5 * torch.kron(first, left @ right)


def _tucker() -> tuple[Tensors, torch.Tensor]:
    up, down, mid = _normal(24, 6, 1, 1), _normal(6, 20, 1, 1), _normal(6, 6, 3, 3)
    mid *= 0.3 ** torch.arange(6.0)[:, None, None, None]
    delta = torch.einsum("nmkl,in,mj->ijkl", mid, up[:, :, 0, 0], down[:, :, 0, 0])
    names = ("lora_up.weight", "lora_down.weight", "lora_mid.weight", "alpha")
    return dict(zip(names, [up, down, mid, torch.tensor(3.0)], strict=True)), 0.5 * delta


COMPOSITES = {"LoHa": _loha, "LoKr": _lokr, "Tucker": _tucker}
NAME = "lora_unet_down_blocks_0_attentions_0_proj_in"
