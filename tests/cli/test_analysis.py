"""The blocks of a model as rows of the table of `lensd analyze`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lensd.cli.views.analysis import ROWS, groups
from lensd.logs.measures import Module


def module(name: str) -> Module:
    return Module(
        module=name, out_features=1, in_features=1, rank=1, bytes=4, alpha=1.0, norm=0.0,
        ranks={}, spectrum=[],
    )  # fmt: skip


def unet(*names: str) -> list[Module]:
    return [module(f"lora_unet_{name}") for name in names]


def flux() -> list[Module]:
    """One module of each of FLUX's 57 blocks, in reverse order."""
    doubles = (f"double_blocks_{n}_img_mod_lin" for n in range(19))
    return unet(*(f"single_blocks_{n}_linear1" for n in range(38)), *doubles)[::-1]


def test_few_blocks_have_a_row_each() -> None:
    """Rows are sorted by number, not as text; a part without numbers has its name."""
    names = [f"down_blocks_{n}_attentions_0_proj_in" for n in (10, 2, 0)]
    found = groups(unet(*names, "mid_block_attentions_0_proj_in", names[0]))
    assert [(name, len(members)) for name, members in found] == [
        ("down_blocks.0", 1), ("down_blocks.2", 1), ("down_blocks.10", 2), ("mid_block", 1),
    ]  # fmt: skip


def test_a_model_of_many_blocks_has_ranges() -> None:
    """FLUX has two or three blocks per row; the last row of a part has the rest."""
    found = dict(groups(flux()))
    assert len(found) <= ROWS
    assert list(found)[:2] == ["double_blocks.0-1", "double_blocks.2-3"]
    assert list(found)[-1] == "single_blocks.36-37"
    assert "double_blocks.18" in found


def test_only_long_parts_have_ranges() -> None:
    """In SDXL, the 32 layers of the second text encoder share rows; the few blocks do not."""
    encoders = {f"lora_te{te}_text_model_encoder_layers_{n}_mlp_fc1": te for te in (1, 2)
                for n in range(12 if te == 1 else 32)}  # fmt: skip
    blocks = unet(*(f"down_blocks_{n}_attentions_0_proj_in" for n in (1, 2)))
    found = [name for name, _ in groups([*map(module, encoders), *blocks])]
    assert len(found) <= ROWS
    assert {"down_blocks.1", "down_blocks.2", "te1.0", "te1.11", "te2.0-2"} <= set(found)


@given(st.integers(1, 60))
def test_no_module_is_lost(rows: int) -> None:
    """For any limit of rows, each module is in exactly one row; two parts need two rows."""
    found = groups(flux(), rows)
    assert len(found) <= max(rows, 2)
    named = [m.module for _, members in found for m in members]
    assert sorted(named) == sorted(m.module for m in flux())
