"""lensd.lora.metadata: the metadata in the header of an output."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensd.lora import marks, metadata
from lensd.lora.adapter import adapter_metadata
from lensd.lora.metadata import Origin, output_metadata, with_error
from lensd.lora.parameters import Parameters
from lensd.lora.plan import Plan
from lensd.store.header import encode_header
from tests.lora import making
from tests.lora.making import Made
from tests.support.suites import examples

ORIGIN = Origin("ab" * 32, 123456, "a.safetensors", "1.2.3", "rank", 0.99)


def kohya_plan(mode: str = "rank", **fields: Any) -> Plan:
    return making.plan_of(making.small_file(), Parameters(mode=mode, **fields))


def peft_tensors() -> making.Tensors:
    """Return modules of three ranks; the name of one is the end of another's."""
    tensors: making.Tensors = {}
    names = ["proj_out", "single_transformer_blocks.0.proj_out", "transformer_blocks.0.attn.to_q"]
    for at, name in enumerate(names):
        kind = ("random", "decaying", "decaying")[at]
        up, down = (t.half() for t in making.factors(kind, 24, 30, 8 + at, at))
        tensors |= making.peft(f"transformer.{name}", Made(up, down, None))
    return tensors


def peft_value(patterns: dict[str, Any], name: str, default: Any) -> Any:
    """Find a value as peft 0.21 does: get_pattern_key in peft/utils/other.py."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return default


def scale_of(entry: dict[str, Any], name: str) -> float:
    """Return the number by which diffusers multiplies up @ down."""
    component, _, rest = name.partition(".")
    alpha = peft_value(entry[f"{component}.alpha_pattern"], rest, entry[f"{component}.lora_alpha"])
    rank = rank_of(entry, name)
    return float(alpha) / (rank**0.5 if entry.get(f"{component}.use_rslora") else rank)


def rank_of(entry: dict[str, Any], name: str) -> int:
    component, _, rest = name.partition(".")
    found = peft_value(entry[f"{component}.rank_pattern"], rest, entry[f"{component}.r"])
    return int(found)


def test_original_entries_stay() -> None:
    """Other programs identify the model by sshs_model_hash, modelspec and other entries."""
    original = {"sshs_model_hash": "0" * 64, "modelspec.title": "x", "ss_tag_frequency": "{}"}
    result = output_metadata(original, kohya_plan(), ORIGIN)
    assert original.items() <= result.items()


def test_marks_record_the_origin_of_the_file() -> None:
    """Version, mode, hash, size and name of the original, energy and error are strings."""
    result = with_error(output_metadata({}, kohya_plan(), ORIGIN), 0.0123)
    assert result == {
        "lensd.version": "1.2.3",
        "lensd.mode": "rank",
        "lensd.original_sha256": "ab" * 32,
        "lensd.original_bytes": "123456",
        "lensd.original_name": "a.safetensors",
        "lensd.energy": "0.99",
        "lensd.delta_error": "1.230000e-02",
    }
    assert marks.is_output(result)
    assert not marks.is_output({"lensd.version": "1"})


@given(st.floats(min_value=0, allow_infinity=True))
def test_the_error_has_a_fixed_width(error: float) -> None:
    """So it can overwrite the placeholder after the read-back."""
    assert len(metadata.fixed_width(error)) == len(metadata.fixed_width(0.0))


def test_network_entries_are_those_of_kohyas_resizer() -> None:
    """They are `Dynamic` if ranks differ, else the number; unchanged if no rank changed."""
    entries = {"ss_network_dim": "8", "ss_network_alpha": "4.0"}
    dynamic = output_metadata(entries, kohya_plan(), ORIGIN)
    assert {dynamic[k] for k in entries} == {"Dynamic"}
    one = output_metadata(entries, kohya_plan(max_rank=1), ORIGIN)
    assert (one["ss_network_dim"], one["ss_network_alpha"]) == ("1", "4.0")
    same = output_metadata(entries, kohya_plan("int8"), ORIGIN)
    assert entries.items() <= same.items()
    assert "ss_network_dim" not in output_metadata({}, kohya_plan(), ORIGIN)


def test_the_network_alpha_is_that_of_a_float8_file() -> None:
    """lensd divides it by a power of two, also where all ranks stay."""
    plan = kohya_plan("int8", targets=("comfyui-bypass",))
    found = output_metadata({"ss_network_dim": "8", "ss_network_alpha": "4.0"}, plan, ORIGIN)
    assert plan.alpha is not None
    assert plan.alpha < 4
    assert (found["ss_network_dim"], found["ss_network_alpha"]) == ("8", str(plan.alpha))
    assert marks.ALPHA not in found


def test_int8_files_record_what_is_needed_to_expand_them() -> None:
    """They record the float alpha or its absence; peft's adapter entry moves to a mark."""
    assert output_metadata({}, kohya_plan("ultra"), ORIGIN)["lensd.alpha"] == "4.0"
    assert "lensd.alpha" not in output_metadata({}, kohya_plan("rank"), ORIGIN)
    plan = making.plan_of(peft_tensors(), Parameters(mode="ultra"))
    text = json.dumps({"transformer.r": 8, "transformer.lora_alpha": 8})
    result = output_metadata({"lora_adapter_metadata": text}, plan, ORIGIN)
    assert result["lensd.adapter_metadata"] == text
    assert "lora_adapter_metadata" not in result
    assert result["lensd.alpha"] == "none"


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("alpha", [8, 16.5])
@pytest.mark.parametrize("patterns", [{}, {"to_q": 3}, {"^proj_out": 5, "attn.to_q": 2.5}])
def test_the_adapter_entry_has_the_new_ranks_and_the_same_scales(
    rslora: bool,  # noqa: FBT001
    alpha: float,
    patterns: dict[str, float],
) -> None:
    """By peft's rules every module has the rank of its tensors and its original scale."""
    tensors = peft_tensors()
    plan = making.plan_of(tensors, Parameters(mode="rank"))
    own = {m.module.name: m.module.rank for m in plan.modules}
    before = {
        "transformer.r": 8,
        "transformer.lora_alpha": alpha,
        "transformer.use_rslora": rslora,
        "transformer.alpha_pattern": patterns,
        "transformer.rank_pattern": {"^" + n.partition(".")[2]: r for n, r in own.items()},
        "transformer.target_modules": ["to_q", "proj_out"],
    }
    original = {"lora_adapter_metadata": json.dumps(before)}
    after = json.loads(output_metadata(original, plan, ORIGIN)["lora_adapter_metadata"])
    assert after["transformer.target_modules"] == ["to_q", "proj_out"]
    assert {m.rank for m in plan.modules} != {8}
    for m in plan.modules:
        name = m.module.name
        assert rank_of(before, name) == m.module.rank
        assert rank_of(after, name) == m.rank
        assert scale_of(after, name) == pytest.approx(scale_of(before, name), rel=1e-12)


@examples(100)
@given(
    st.dictionaries(
        st.lists(st.sampled_from(["a", "b", "to_q", "0"]), min_size=1, max_size=4).map(".".join),
        st.tuples(st.integers(1, 9), st.integers(1, 9)),
        min_size=1,
    ),
    st.booleans(),
)
def test_the_adapter_entry_is_right_for_any_names(
    ranks: dict[str, tuple[int, int]],
    rslora: bool,  # noqa: FBT001
) -> None:
    """Also if one name is the end of another: a plain pattern would match both."""
    before = {
        "unet.r": 1,
        "unet.lora_alpha": 4,
        "unet.use_rslora": rslora,
        "unet.alpha_pattern": {},
        "unet.rank_pattern": {f"^{n}": old for n, (old, _) in ranks.items()},
        "text_encoder.r": 7,
    }
    names = {f"unet.{n}": new for n, (_, new) in ranks.items()}
    after = json.loads(adapter_metadata(json.dumps(before), names))
    assert after["text_encoder.r"] == 7
    for name, new in names.items():
        assert rank_of(after, name) == new
        assert scale_of(after, name) == pytest.approx(scale_of(before, name), rel=1e-12)


@pytest.mark.parametrize(
    "text",
    [
        "no json",
        "[1, 2]",
        '"text"',
        "{}",
        '{"unet.r": "eight"}',
        '{"unet.r": null, "unet.lora_alpha": null}',
        '{"unet.r": 8, "unet.alpha_pattern": [1]}',
        '{"unet.r": 8, "unet.lora_alpha": Infinity}',
        '{"unet.r": 8, "unet.alpha_pattern": {"(a+)+$": 3}}',
        "[" * 100_000,
    ],
)
def test_an_adapter_entry_that_cannot_be_read_is_returned_unchanged(text: str) -> None:
    """It raises nothing, and no pattern runs as a regular expression."""
    found = adapter_metadata(text, {"unet.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab": 3})
    assert found == text


def test_the_rank_entries_of_cloneofsimo_are_updated() -> None:
    """Its loader makes layers from these entries."""
    up, down = (t.half() for t in making.factors("decaying", 24, 20, 8, 0))
    tensors = {"unet:0:up": up, "unet:0:down": down}
    plan = making.plan_of(tensors, Parameters(mode="rank"))
    result = output_metadata({"unet:0:rank": "8", "unet": "[]"}, plan, ORIGIN)
    assert result["unet:0:rank"] == str(plan.modules[0].rank)
    assert plan.modules[0].rank < 8
    assert result["unet"] == "[]"


def test_a_name_that_is_not_utf8_does_not_break_the_header() -> None:
    """os.fsdecode returns such a name with surrogate escapes."""
    origin = Origin("ab" * 32, 1, "caf\udce9.safetensors", "1", "rank", 0.99)
    plan = kohya_plan()
    result = output_metadata({}, plan, origin)
    tensors = [(key, spec.dtype, spec.shape) for key, spec in plan.tensors]
    lengths = {len(encode_header(tensors, {**result, marks.ERROR: metadata.fixed_width(e)}))
               for e in (0.0, 0.5)}  # fmt: skip
    assert len(lengths) == 1
