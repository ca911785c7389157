"""lensd.lora.layout: which tensors form a module, and which stay untouched."""

from __future__ import annotations

import pytest

from lensd.errors import Skipped
from lensd.lora.layout import NAMINGS, Naming, read_layout
from lensd.lora.tensor_spec import TensorSpec

Specs = dict[str, TensorSpec]


def pair(
    name: str = "lora_unet_x",
    naming: Naming = NAMINGS[0],
    rank: int = 4,
    out: int = 6,
    width: int = 5,
    kernel: tuple[int, ...] = (),
    dtype: str = "F16",
) -> Specs:
    """Return the header entries of one module."""
    return {
        naming.key(name, naming.down): TensorSpec(dtype, (rank, width, *kernel)),
        naming.key(name, naming.up): TensorSpec(dtype, (out, rank, *(1 for _ in kernel))),
    }


def alpha(name: str = "lora_unet_x", shape: tuple[int, ...] = (), dtype: str = "F16") -> Specs:
    return {f"{name}.alpha": TensorSpec(dtype, shape)}


def reason(tensors: Specs) -> str:
    with pytest.raises(Skipped) as caught:
        read_layout(tensors)
    return caught.value.reason


@pytest.mark.parametrize("naming", NAMINGS, ids=lambda n: n.down)
@pytest.mark.parametrize("with_alpha", [False, True])
def test_every_naming_is_recognised(naming: Naming, with_alpha: bool) -> None:  # noqa: FBT001
    """A module consists of both factors and the alpha, if there is one, and of nothing else."""
    name = "012" if naming.numbered else "some.block.x"
    tensors = pair(name, naming)
    key = naming.key(name, naming.end) + naming.alpha
    if with_alpha:
        tensors[key] = TensorSpec("F16", ())
    layout = read_layout(tensors | {"other": TensorSpec("F16", (3,))})
    (module,) = layout.modules
    assert name in module.up
    assert {module.up, module.down, *([module.alpha] if module.alpha else [])} == set(tensors)
    assert (module.alpha is not None) == with_alpha
    assert module.alpha_key == key
    assert layout.naming == naming.name
    assert layout.untouched == ("other",)


def test_a_longer_suffix_is_tried_first() -> None:
    """`x.lora_A.default.weight` belongs to the module x."""
    (module,) = read_layout(pair("transformer.x", NAMINGS[1])).modules
    assert module.name == "transformer.x"


def test_the_two_pairs_in_a_block_of_xlabs_have_different_names() -> None:
    """`qkv_lora1` (image) and `qkv_lora2` (text) are two modules."""
    names = [f"double_blocks.0.processor.qkv_lora{n}" for n in (1, 2)]
    tensors: Specs = {}
    for name in names:
        tensors |= {
            f"{name}.down.weight": TensorSpec("BF16", (4, 3072)),
            f"{name}.up.weight": TensorSpec("BF16", (9216, 4)),
        }
    layout = read_layout(tensors)
    assert [m.name for m in layout.modules] == names
    assert (layout.naming, layout.family) == ("xlabs", "flux")


@pytest.mark.parametrize("kernel", [(), (1, 1), (3, 3), (3,)])
def test_rank_and_sizes_come_from_the_tensors(kernel: tuple[int, ...]) -> None:
    """in_features includes the kernel; shapes at another rank differ only in the rank."""
    (module,) = read_layout(pair(rank=3, out=6, width=5, kernel=kernel)).modules
    size = 9 if kernel == (3, 3) else 3 if kernel == (3,) else 1
    assert (module.rank, module.out_features, module.in_features) == (3, 6, 5 * size)
    one = tuple(1 for _ in kernel)
    assert module.shapes_at(2) == ((6, 2, *one), (2, 5, *kernel))


def test_a_rank_may_exceed_every_dimension() -> None:
    """There are such files."""
    assert read_layout(pair(rank=64, out=6, width=5)).modules[0].rank == 64


def test_tensors_that_form_no_plain_pair_are_left_untouched() -> None:
    """Tucker, orphans, wrong ranks, kernels in `up`, empty tensors, biases, norms, DoRA, diffs."""
    odd = (
        pair("tucker")
        | {"tucker.lora_mid.weight": TensorSpec("F16", (4, 4, 3, 3))}
        | {"orphan_up.lora_up.weight": TensorSpec("F16", (6, 4))}
        | {"orphan_down.lora_down.weight": TensorSpec("F16", (4, 6))}
        | {"lonely.alpha": TensorSpec("F16", ())}
        | pair("unequal")
        | {"unequal.lora_up.weight": TensorSpec("F16", (6, 3))}
        | pair("kernel", kernel=(3, 3))
        | {"kernel.lora_up.weight": TensorSpec("F16", (6, 4, 3, 3))}
        | pair("empty", rank=0)
        | pair("flat")
        | {"flat.lora_up.weight": TensorSpec("F16", (4,))}
        | {
            "lora_unet_x.dora_scale": TensorSpec("F16", (6, 1)),
            "lora_unet_x.diff_b": TensorSpec("F16", (6,)),
            "lora_unet_n.w_norm": TensorSpec("F16", (6,)),
            "transformer.y.lora_B.bias": TensorSpec("F16", (6,)),
            "transformer.y.lora_magnitude_vector": TensorSpec("F16", (6,)),
            "bundle_emb.e.string_to_param.*": TensorSpec("F32", (2, 768)),
        }
    )
    layout = read_layout(odd | pair() | alpha() | pair("transformer.y", NAMINGS[2]))
    assert [m.name for m in layout.modules] == ["lora_unet_x", "transformer.y"]
    assert set(layout.untouched) == set(odd)


@pytest.mark.parametrize(
    "strange", [alpha(shape=(4,)), alpha(shape=(0,)), alpha(dtype="BOOL"), alpha(dtype="F8_E4M3")]
)
def test_a_module_whose_alpha_cannot_be_read_is_left_untouched(strange: Specs) -> None:
    """At another rank its alpha / rank would change."""
    layout = read_layout(pair() | strange | pair("lora_unet_y"))
    assert [m.name for m in layout.modules] == ["lora_unet_y"]
    assert set(layout.untouched) == set(pair() | strange)


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64", "I64", "I32", "U8"])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_alpha_may_be_one_number_of_any_dtype(dtype: str, shape: tuple[int, ...]) -> None:
    """torch.tensor(16), for example, is an integer."""
    (module,) = read_layout(pair() | alpha(dtype=dtype, shape=shape)).modules
    assert module.alpha == "lora_unet_x.alpha"


@pytest.mark.parametrize(
    ("up", "down", "expected"),
    [("F16", "F16", "F16"), ("F16", "F32", "F32"), ("F64", "F32", "F64"), ("F16", "BF16", "F32")],
)
def test_factors_of_two_dtypes_have_the_narrowest_dtype_for_both(
    up: str, down: str, expected: str
) -> None:
    """For float16 and bfloat16 it is float32."""
    tensors = pair()
    tensors["lora_unet_x.lora_up.weight"] = TensorSpec(up, (6, 4))
    tensors["lora_unet_x.lora_down.weight"] = TensorSpec(down, (4, 5))
    assert read_layout(tensors).modules[0].dtype == expected


def test_naming_and_precision_are_those_of_most_modules() -> None:
    """There are files with several namings and dtypes."""
    layout = read_layout(
        pair("a.x", NAMINGS[2], dtype="BF16")
        | pair("a.y", NAMINGS[2], dtype="BF16")
        | pair("lora_unet_z", dtype="F32")
    )
    assert (layout.naming, layout.dtype) == ("peft", "BF16")


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("lora_unet_x.hada_w1_a", "LoHa"),
        ("lora_unet_x.lokr_w1", "LoKr"),
        ("lora_unet_x.oft_blocks", "OFT"),
        ("lora_unet_x.a1.weight", "GLoRA"),
    ],
)
def test_adapters_of_other_kinds_are_named(key: str, kind: str) -> None:
    """The reason is unsupported_adapter, and the message names the kind."""
    tensors = {key: TensorSpec("F16", (4, 4))}
    assert reason(tensors) == "unsupported_adapter"
    with pytest.raises(Skipped, match=kind):
        read_layout(tensors)


def test_a_lora_beside_another_adapter_is_still_reduced() -> None:
    """Only files without any pair are skipped."""
    layout = read_layout(pair() | {"lora_unet_y.hada_w1_a": TensorSpec("F16", (4, 4))})
    assert len(layout.modules) == 1


@pytest.mark.parametrize(
    "key",
    [
        "model.diffusion_model.input_blocks.0.0.weight",
        "double_blocks.0.img_attn.qkv.weight",
        "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight",
    ],
)
def test_a_checkpoint_is_told_from_a_lora(key: str) -> None:
    """A whole model in the watched folder is a mistake, and has its own reason."""
    assert reason({key: TensorSpec("F16", (4, 4))}) == "checkpoint"


def test_a_file_without_lora_has_the_reason_no_lora() -> None:
    """So has a file without any tensor."""
    assert reason({"weight": TensorSpec("F32", (4, 4))}) == "no_lora"
    assert reason({}) == "no_lora"


@pytest.mark.parametrize("dtype", ["I8", "F8_E4M3", "F8_E5M2"])
def test_pairs_in_other_number_formats_are_not_reduced(dtype: str) -> None:
    """Alone the reason is unsupported_dtype; beside other pairs they stay untouched."""
    assert reason(pair(dtype=dtype)) == "unsupported_dtype"
    layout = read_layout(pair(dtype=dtype) | pair("lora_unet_y"))
    assert [m.name for m in layout.modules] == ["lora_unet_y"]


@pytest.mark.parametrize(
    ("beside", "expected"),
    [
        (".dora_scale", True),
        (".lora_magnitude_vector", True),
        (".lora_magnitude_vector.default.weight", True),
        (".bias_values", True),  # added to up @ down before the scale
        (".scale", True),  # takes the place of alpha / rank in A1111
        (".diff_b", False),
        (".w_norm", False),
        (".lora_up.bias", False),  # the scale stays 1
    ],
)
def test_some_tensors_beside_a_pair_fix_its_product_and_its_scale(
    beside: str,
    expected: bool,  # noqa: FBT001
) -> None:
    """Neither up @ down nor alpha / rank may change then."""
    extra = {"lora_unet_x" + beside: TensorSpec("F16", (6,))}
    assert read_layout(pair() | extra).modules[0].scaled_last == expected
    (module, _) = read_layout(pair() | extra | pair("lora_unet_y")).modules
    assert module.scaled_last == expected


def test_a_bias_of_peft_is_scaled_too_where_there_is_an_alpha() -> None:
    """peft multiplies it by alpha / rank, so that must not change."""
    tensors = pair("transformer.y", NAMINGS[2])
    tensors["transformer.y.lora_B.bias"] = TensorSpec("F16", (6,))
    assert not read_layout(tensors).modules[0].scaled_last
    tensors["transformer.y.alpha"] = TensorSpec("F16", ())
    assert read_layout(tensors).modules[0].scaled_last


@pytest.mark.parametrize("odd", ["_lora.alpha", ".lora.alpha", ".lora_alpha"])
def test_a_pair_with_an_alpha_under_an_unknown_key_is_left_untouched(odd: str) -> None:
    """A program may use that alpha, and it would be wrong at another rank."""
    strange = {"lora_unet_x" + odd: TensorSpec("F16", ())}
    layout = read_layout(pair() | strange | pair("lora_unet_y"))
    assert [m.name for m in layout.modules] == ["lora_unet_y"]
    assert set(layout.untouched) == set(pair() | strange)
