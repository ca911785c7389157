"""lensd.lora.adapter: a new entry for files that have none, and the scales by an entry."""

from __future__ import annotations

import json

import pytest

from lensd.lora import adapter
from lensd.lora.layout import Layout, read_layout
from lensd.lora.tensor_spec import TensorSpec

TEXT = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"


def layout(
    ranks: dict[str, int], down: str = ".lora_A.weight", up: str = ".lora_B.weight", **more: int
) -> Layout:
    """Return a layout with modules of these ranks; `more` are other tensors."""
    specs = {name: TensorSpec("F16", (n,)) for name, n in more.items()}
    for name, rank in ranks.items():
        specs |= {name + down: TensorSpec("F16", (rank, 16))}
        specs |= {name + up: TensorSpec("F16", (16, rank))}
    return read_layout(specs)


def test_every_module_has_its_rank_and_scale_1() -> None:
    """That is so in each component. Names in text encoders lack the prefix `text_model`."""
    ranks = {"unet.a.to_q": 4, "unet.a.to_k": 4, "unet.b.to_q": 6, TEXT: 3}
    text = adapter.for_mixed_ranks(layout(ranks), ranks)
    assert text is not None
    entry = json.loads(text)
    assert (entry["unet.r"], entry["unet.lora_alpha"]) == (4, 4)
    assert entry["unet.rank_pattern"] == entry["unet.alpha_pattern"] == {"b.to_q": 6}
    assert entry["unet.target_modules"] == ["a.to_k", "a.to_q", "b.to_q"]
    assert (entry["text_encoder.r"], entry["text_encoder.rank_pattern"]) == (3, {})
    assert entry["text_encoder.target_modules"] == [TEXT.partition(".text_model.")[2]]
    assert set(adapter.scales(text, ranks).values()) == {1.0}


@pytest.mark.parametrize(
    ("ranks", "down", "more"),
    [
        pytest.param({"unet.a": 4, "unet.b": 4}, ".lora_A", {}, id="one rank"),
        pytest.param({"unet.a": 4, TEXT: 6}, ".lora_A", {}, id="one rank a component"),
        pytest.param({"a": 4, "b": 6}, ".lora_A", {}, id="no component"),
        pytest.param({"diffusion_model.a": 4, "diffusion_model.b": 6}, ".lora_A", {}, id="bfl"),
        pytest.param({"transformer.blocks.0.a": 4, "transformer.b": 6}, ".lora_A", {}, id="wan"),
        pytest.param({"unet.a": 4, "unet.b": 6}, ".lora_A.default", {}, id="renamed"),
        pytest.param({"unet.a": 4, "unet.b": 6}, ".lora_A", {"unet.a.lora_B.bias": 16}, id="bias"),
    ],
)
def test_no_entry_where_it_is_not_needed_or_not_certain(
    ranks: dict[str, int], down: str, more: dict[str, int]
) -> None:
    """In these files diffusers needs no entry, or would read the entry for other module names."""
    up = down.replace("lora_A", "lora_B")
    found = layout(ranks, f"{down}.weight", f"{up}.weight", **more)
    assert adapter.for_mixed_ranks(found, ranks) is None


def test_text_encoder_patterns_match_names_with_and_without_text_model() -> None:
    """peft matches a pattern with the end of a name, after a dot."""
    other = TEXT.replace("q_proj", "k_proj")
    entry = json.dumps({"text_encoder.r": 8, "text_encoder.lora_alpha": 8})
    after = json.loads(adapter.adapter_metadata(entry, {TEXT: 4, other: 6}))
    (pattern,) = after["text_encoder.rank_pattern"]
    assert not pattern.startswith("text_model")
    assert TEXT.endswith("." + pattern) or other.endswith("." + pattern)


def test_scales() -> None:
    """A scale is lora_alpha / r, both by their patterns; 1 if the entry lacks the component."""
    entry = {
        "unet.r": 8,
        "unet.lora_alpha": 4,
        "unet.rank_pattern": {"b": 16},
        "unet.alpha_pattern": {"^c": 24},
        "transformer.r": 9,
        "transformer.lora_alpha": 6,
        "transformer.use_rslora": True,
    }
    names = ["unet.a", "unet.x.b", "unet.c", "transformer.a", "text_encoder.a"]
    found = adapter.scales(json.dumps(entry), names)
    assert found == dict(zip(names, [0.5, 0.25, 3.0, 2.0, 1.0], strict=True))


@pytest.mark.parametrize(
    "text", ["no json", "[1]", '{"unet.r": 0}', '{"unet.r": 8, "unet.rank_pattern": {"(a|b)": 4}}']
)
def test_an_entry_that_cannot_be_read_raises_value_error(text: str) -> None:
    """No scale is assumed instead."""
    with pytest.raises(ValueError, match="lora_adapter_metadata"):
        adapter.scales(text, ["unet.a"])
