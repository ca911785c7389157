"""Why lensd writes float files as it does: what diffusers makes of the ways that look simpler."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lensd.lora import adapter
from tests.engine import asking
from tests.loading import files, pipelines
from tests.loading.files import Made
from tests.loading.test_diffusers import AGREE, make

FAR = 0.1  # a strength that is wrong, where rounding is 1e-3


class Output(NamedTuple):
    """A `rank` output of lensd and the error that was reported."""

    made: Made
    path: Path
    error: float

    @property
    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.path)


def output(case: str, folder: Path) -> Output:
    _, made = make(case, folder)
    out = folder / "out.safetensors"
    numbers = asking.compress(made.path, out, mode="rank")
    return Output(made, out, numbers["delta_error"])


def test_one_alpha_for_all_modules(tmp_path: Path) -> None:
    """Rule 1: alpha = rank in each module means the same and is applied wrongly, silently."""
    out = output("sd15-kohya", tmp_path)
    tensors = out.tensors
    alphas = {k: t for k, t in tensors.items() if k.endswith(".alpha")}
    assert {(float(t), t.dtype, t.shape) for t in alphas.values()} == {
        (files.ALPHA, torch.float32, torch.Size([]))
    }
    for key, alpha in alphas.items():
        name = key.removesuffix(".alpha")
        rank = tensors[f"{name}.lora_down.weight"].shape[0]
        tensors[f"{name}.lora_up.weight"] = tensors[f"{name}.lora_up.weight"] * (alpha / rank)
        tensors[key] = torch.tensor(float(rank))
    assert files.relative(pipelines.applied("sd15", tensors), out.made.deltas) > FAR
    found = files.relative(pipelines.applied("sd15", out.path), out.made.deltas)
    assert found == pytest.approx(out.error, abs=AGREE)


def test_alphas_that_differ_in_the_original_are_made_one(tmp_path: Path) -> None:
    """Rule 1: an original that diffusers misreads becomes an output that it reads right."""
    tensors: dict[str, Tensor] = {}
    deltas = {}
    layers = files.adapted(pipelines.layers(pipelines.sd15()), convolutions=False)
    for index, (place, layer) in enumerate(layers.items()):
        f = files.factors(layer, 8, index, torch.float16)
        alpha = (4.0, 1.0, 16.0)[index % 3]
        tensors |= files.kohya(f, files.kohya_name(place), alpha)
        deltas[place] = files.delta(f, alpha / 8)
    source, out = tmp_path / "a.safetensors", tmp_path / "out.safetensors"
    save_file(tensors, source)
    assert files.relative(pipelines.applied("sd15", source), deltas) > FAR
    error = asking.compress(source, out, mode="rank", energy=0.999)["delta_error"]
    found = files.relative(pipelines.applied("sd15", out), deltas)
    assert found == pytest.approx(error, abs=AGREE)


@pytest.mark.parametrize("case", ["flux-peft", "sdxl-peft", "sd15-peft"])
def test_mixed_ranks_of_peft_files_come_with_an_entry(case: str, tmp_path: Path) -> None:
    """Rule 2: without one, diffusers before 0.40 takes the first rank for everybody's alpha.

    The one here reads it: were a rank in it wrong, it would refuse the file, as the next test has.
    """
    out = output(case, tmp_path)
    assert adapter.KEY not in asking.metadata_of(out.made.path)
    entry = json.loads(asking.metadata_of(out.path)[adapter.KEY])
    components = {key.partition(".")[0] for key in out.tensors}
    for component in components:
        assert entry[f"{component}.lora_alpha"] == entry[f"{component}.r"]
        assert entry[f"{component}.alpha_pattern"] == entry[f"{component}.rank_pattern"] != {}
    name, _, _ = case.partition("-")
    found = files.relative(pipelines.applied(name, out.path), out.made.deltas)
    assert found == pytest.approx(out.error, abs=AGREE)


def test_a_stale_entry_is_refused(tmp_path: Path) -> None:
    """Rule 3: the original's entry tells the original's ranks; lensd rewrites it."""
    out = output("flux-peft-entry", tmp_path)
    stale = tmp_path / "stale.safetensors"
    save_file(out.tensors, stale, asking.metadata_of(out.made.path))
    with pytest.raises(RuntimeError, match="size mismatch"):
        pipelines.applied("flux", stale)


def test_an_entry_beside_alpha_keys_is_refused(tmp_path: Path) -> None:
    """Rule 3: so that a peft file has either."""
    out = output("flux-peft", tmp_path)
    both = tmp_path / "both.safetensors"
    name = next(iter(out.tensors)).partition(".lora_")[0]
    save_file(
        out.tensors | {f"{name}.alpha": torch.tensor(3.0)}, both, asking.metadata_of(out.path)
    )
    with pytest.raises(ValueError, match="cannot be specified"):
        pipelines.applied("flux", both)


def test_peft_floats_have_no_alpha(tmp_path: Path) -> None:
    """Rule 4: with one the SD loader refuses the file."""
    out = output("sd15-peft", tmp_path)
    assert not [key for key in out.tensors if key.endswith(".alpha")]
    name = next(iter(out.tensors)).partition(".lora_")[0]
    with pytest.raises(ValueError, match="'lora'"):
        pipelines.applied("sd15", out.tensors | {f"{name}.alpha": torch.tensor(3.0)})


def without(tensors: dict[str, Tensor], *parts: str) -> dict[str, Tensor]:
    return {k: t for k, t in tensors.items() if not any(p in k for p in parts)}


def test_no_module_is_dropped_and_none_has_rank_zero(tmp_path: Path) -> None:
    """Rule 5: modules whose delta is nothing stay, of rank 1: no other way loads them all."""
    layers = files.adapted(pipelines.layers(pipelines.sd15()), convolutions=False)
    tensors: dict[str, Tensor] = {}
    for index, (place, layer) in enumerate(layers.items()):
        f = files.factors(layer, 8, index, torch.float16)
        tensors |= files.kohya(f, files.kohya_name(place), 4.0)
    untrained = [k for k in tensors if "out_proj.lora_up" in k or "attn1_to_q.lora_up" in k]
    tensors |= {k: torch.zeros_like(tensors[k]) for k in untrained}
    source, out = tmp_path / "a.safetensors", tmp_path / "out.safetensors"
    save_file(tensors, source)
    asking.compress(source, out, mode="rank")
    found = load_file(out)
    assert found.keys() == tensors.keys()
    assert {found[k].shape[1] for k in untrained} == {1}
    assert pipelines.applied("sd15", out).keys() == layers.keys()

    name = untrained[0].partition(".")[0]
    with pytest.raises(ValueError, match="not been correctly renamed"):
        pipelines.applied("sd15", without(found, f"{name}.lora_"))
    nothing = {f"{name}.lora_up.weight": found[f"{name}.lora_up.weight"][:, :0]}
    nothing[f"{name}.lora_down.weight"] = found[f"{name}.lora_down.weight"][:0]
    with pytest.raises(ValueError, match="positive integer"):
        pipelines.applied("sd15", found | nothing)
    lost = layers.keys() - pipelines.applied("sd15", without(found, "out_proj")).keys()
    assert {place.rpartition(".")[2] for place in lost} >= {"q_proj", "k_proj", "v_proj"}
