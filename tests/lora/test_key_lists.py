"""lensd.lora.layout finds every known naming and family, with keys and shapes of real files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lensd.lora.layout import NAMINGS, Layout, read_layout
from lensd.lora.tensor_spec import TensorSpec
from tests.lora import key_lists
from tests.lora.key_lists import KeyList

LISTS = key_lists.read()

# Base models of the shared tables -> the family that lensd returns.
FAMILIES = {
    "sd15": "sd15",
    "sd21": "sd2",
    "sdxl": "sdxl",
    "sd35l": "sd3",
    "sd35m": "sd3",
    "flux": "flux",
    "chroma": "flux_or_chroma",  # FLUX's own blocks without their modulation
    "flux2dev": "flux2",
    "flux2klein9b": "flux2",
    "flux2klein4b": "flux2",
    "hunyuanvideo": "hunyuanvideo",
    "qwenimage": "qwenimage",
    "zimage": "zimage",
    "wan21_14b": "wan",
    "wan21_1_3b": "wan",
    "wan21_i2v_14b": "wan",
    "wan22_5b": "wan",
    "ltx": "ltx",
    "ltx2": "ltx2",
}
# Tables of FLUX whose layers Chroma has too.
NO_MODULATION = ("flux.peft_attn", "flux.peft_attnff")


@pytest.mark.parametrize("known", LISTS, ids=lambda k: k.title)
def test_a_real_key_list_is_found_whole(known: KeyList) -> None:
    """It finds every module with its alpha, leaves no key over, and finds naming and family."""
    layout = read_layout(known.specs)
    assert {m.down: m.up for m in layout.modules} == known.pairs
    assert layout.untouched == ()
    assert (layout.naming, layout.family) == (known.naming, known.family)
    assert {m.rank for m in layout.modules} == {key_lists.RANK}
    alphas = {key for key, spec in known.specs.items() if not spec.shape}
    assert {m.alpha for m in layout.modules if m.alpha} == alphas


def test_the_lists_cover_the_table_of_namings() -> None:
    """Each row of NAMINGS and each family occurs in a list."""
    found = {m.naming for k in LISTS for m in read_layout(k.specs).modules}
    assert found == set(NAMINGS)
    assert set(FAMILIES.values()) <= {k.family for k in LISTS}


def test_the_control_lora_of_flux_is_flux() -> None:
    """Its first layer is wider, and the file has biases and norms too."""
    known = next(k for k in LISTS if k.title == "flux.bfl_bare")
    others = {
        "img_in.lora_A.weight": TensorSpec("F32", (8, 128)),
        "img_in.lora_B.weight": TensorSpec("F32", (3072, 8)),
        "img_in.lora_B.bias": TensorSpec("F32", (3072,)),
        "double_blocks.0.img_attn.norm.key_norm.scale": TensorSpec("F32", (128,)),
    }
    layout = read_layout(known.specs | others)
    assert (layout.family, len(layout.modules)) == ("flux", len(known.pairs) + 1)
    assert set(layout.untouched) == set(list(others)[2:])


def table(folder: Path, key: str, facts: dict[str, object]) -> dict[str, TensorSpec]:
    """Return the header of a LoRA of rank 8 for a real base model."""
    tensors: dict[str, TensorSpec] = {}
    for module in json.loads((folder / f"{key}.json").read_text()):
        kernel = module["kernel"] or []
        down = module.get("down", facts["down_suffix"])
        up = module.get("up", facts["up_suffix"])
        name = module["module"]
        tensors[name + down] = TensorSpec("F16", (8, module["in"], *kernel))
        tensors[name + up] = TensorSpec("F16", (module["out"], 8, *(1 for _ in kernel)))
        if facts["alpha"]:
            tensors[f"{name}.alpha"] = TensorSpec("F16", ())
    return tensors


@pytest.mark.lengthy
def test_real_models_in_every_naming_are_found_whole(shared: Path) -> None:
    """Every module of every shared table is found, no key is left over, the family is right."""
    folder = shared / "models"
    index = json.loads((folder / "index.json").read_text())
    for key, facts in index.items():
        layout: Layout = read_layout(table(folder, key, facts))
        assert len(layout.modules) == facts["modules"], key
        assert len({m.name for m in layout.modules}) == facts["modules"], key
        assert layout.untouched == (), key
        own = "flux_or_chroma" if key in NO_MODULATION else FAMILIES[facts["arch"]]
        assert layout.family == own, key
    assert len(index) > 100
