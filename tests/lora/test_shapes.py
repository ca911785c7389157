"""Modules that fit no layer of a recognised family are named; real files cause no warning."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors import safe_open

from lensd.errors import Skipped
from lensd.lora.layout import read_layout
from lensd.lora.shapes import warnings
from lensd.lora.tensor_spec import TensorSpec
from tests.lora import key_lists
from tests.support.architectures import sd15
from tests.support.sdxl_flux import flux_peft, sdxl_kohya

Specs = dict[str, TensorSpec]


def pair(name: str, out: int, width: int, kernel: tuple[int, ...] = ()) -> Specs:
    one = tuple(1 for _ in kernel)
    return {
        f"{name}.lora_down.weight": TensorSpec("F16", (8, width, *kernel)),
        f"{name}.lora_up.weight": TensorSpec("F16", (out, 8, *one)),
    }


KEY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
SD15 = pair(KEY, 320, 768) | pair("lora_te_text_model_encoder_layers_0_mlp_fc1", 3072, 768)


@pytest.mark.parametrize(
    ("name", "out", "width"),
    [
        ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q", 320, 321),
        ("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q", 3072, 3072),
        ("lora_te_text_model_encoder_layers_0_mlp_fc2", 3072, 3072),
        ("lora_unet_conv_in", 321, 37),
    ],
)
def test_a_module_of_another_shape_is_named(name: str, out: int, width: int) -> None:
    """In the denoiser, in the text encoder and outside of the blocks; the rest is no reason."""
    assert not warnings(read_layout(SD15))
    [warning] = warnings(read_layout(SD15 | pair(name, out, width)))
    assert warning.startswith(
        f"1 of 3 modules fit no layer of sd15, the first is {name} (out {out}"
    )


def test_first_and_last_layers_may_belong_to_a_variant() -> None:
    """An inpainting model reads nine channels."""
    assert not warnings(read_layout(SD15 | pair("lora_unet_conv_in", 320, 9, (3, 3))))


@pytest.mark.parametrize(
    ("layer", "out", "family"),
    [
        ("diffusion_model.double_blocks.{}.img_mod.lin", 18432, "flux"),
        ("lora_unet_double_blocks_{}_img_mlp_0", 12288, "flux_or_chroma"),
        ("transformer.blocks.{}.attn1.to_q", 3072, "wan"),
    ],
)
def test_a_layer_of_a_transformer_with_another_shape_is_named(
    layer: str, out: int, family: str
) -> None:
    """A layer that no table has is no reason if one side belongs to the model."""
    specs: Specs = pair("lora_unet_x", 7, 3072)
    for at in range(12):
        specs |= pair(layer.format(at), out, 3072)
    assert not warnings(read_layout(specs))
    for wrong in (layer.format(12), "lora_unet_y", "transformer.proj_out"):
        [warning] = warnings(read_layout(specs | pair(wrong, out + 1, 3073)))
        assert warning.startswith(
            f"1 of 14 modules fit no layer of {family}, the first is {wrong} ("
        )


def test_an_unknown_family_has_no_warning() -> None:
    """There is nothing to compare its shapes with."""
    assert not warnings(read_layout(pair("lora_unet_x", 7, 5)))


@pytest.mark.parametrize("known", key_lists.read(), ids=lambda k: k.title)
def test_real_key_lists_have_no_warning(known: key_lists.KeyList) -> None:
    """They have the shapes of real files, in every naming."""
    assert not warnings(read_layout(known.specs))


def test_generated_models_have_no_warning() -> None:
    """Those that tests and benchmarks write."""
    for modules in (sd15(), sdxl_kohya(), flux_peft()):
        specs: Specs = {}
        for m in modules:
            specs |= pair(f"lora_unet_{m.path.replace('.', '_')}", m.out_features, m.fan_in)
        layout = read_layout(specs)
        assert layout.family != "unknown"
        assert not [w for w in warnings(layout) if "lora_unet_text" not in w]


def tables(folder: Path) -> Iterator[tuple[str, Specs]]:
    """Yield each table of real modules, as a whole and by its first three modules."""
    index = json.loads((folder / "index.json").read_text())
    for name, told in index.items():
        specs: Specs = {}
        for m in json.loads((folder / f"{name}.json").read_text()):
            kernel = tuple(m["kernel"] or ())
            one = tuple(1 for _ in kernel)
            specs[m["module"] + told["down_suffix"]] = TensorSpec("F16", (8, m["in"], *kernel))
            specs[m["module"] + told["up_suffix"]] = TensorSpec("F16", (m["out"], 8, *one))
        yield name, specs
        yield name, dict(list(specs.items())[:6])


def test_no_layer_of_real_models_has_a_warning(shared: Path) -> None:
    """All layers of the transformers in ../shared/models, also those outside of the blocks."""
    for path in (shared / "models").glob("modules.*.json"):
        specs: Specs = {}
        for m in json.loads(path.read_text()).get("transformer", ()):
            name, kernel = f"transformer.{m['name']}", tuple(m["kernel"] or ())
            specs |= pair(name, m["out"], m["in"], kernel)
        assert not specs or not warnings(read_layout(specs)), path


@pytest.mark.slow
def test_no_table_of_real_models_has_a_warning(shared: Path) -> None:
    """All models and namings in ../shared/models, and files with few of their modules."""
    for name, specs in tables(shared / "models"):
        layout = read_layout(specs)
        assert not warnings(layout), name


def test_no_real_file_has_a_warning(shared: Path) -> None:
    """The files in ../shared/corpus."""
    for path in sorted((shared / "corpus").glob("*.safetensors")):
        with safe_open(path, framework="np") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
            specs = {k: TensorSpec(s.get_dtype(), tuple(s.get_shape())) for k, s in slices.items()}
        try:
            layout = read_layout(specs)
        except Skipped:
            continue
        assert not warnings(layout), path
