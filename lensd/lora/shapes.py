"""Name the modules whose factors fit no layer of the base model that the names point to.

The layers of transformers are those of `transformers`, by their names; of a layer before the first
and after the last block, one side has to be a multiple of the model's width. For UNets and text
encoders a table has, per family, the shapes of the layers that trainers adapt: out:in,in,... with
the kernel in `in`, over all namings (fused and split projections, convolutions). Variants of a
family differ in the layers before the first and after the last block, so one side is enough there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from lensd.lora.blocks import UNKNOWN_PART, Block, block_of
from lensd.lora.family import FLUX_OR_CHROMA, UNKNOWN, without_root
from lensd.lora.layout import Layout, Module
from lensd.lora.transformers import Transformer, fits, place_of, transformers

Shapes = frozenset[tuple[int, int]]  # out_features, in_features


def warnings(layout: Layout) -> list[str]:
    """Return one sentence about the modules that fit no layer of the family; none if all fit."""
    misfits = list(_find_misfits(layout))
    if not misfits:
        return []
    count, first = len(misfits), misfits[0]
    text = (
        f"{count} of {len(layout.modules)} modules fit no layer of {layout.family}, the first is "
        f"{first.name} (out {first.out_features}, in {first.in_features}): the file may be for "
        "another model, or damaged"
    )
    return [text]


def _find_misfits(layout: Layout) -> Iterator[Module]:
    """Yield nothing for families and layers that are in no table."""
    families = _families(layout.family)
    models = [model for model in transformers() if model.family in families]
    unet, encoders = (table.get(layout.family) for table in (UNETS, TEXT_ENCODERS))
    for m in layout.modules:
        block = block_of(m.name)
        is_encoder = block.part.startswith("te")
        if models and not is_encoder:
            is_fit = _fits_transformer(m, models)
        else:
            is_fit = _fits_table(m, block, encoders if is_encoder else unet)
        if not is_fit:
            yield m


def _families(family: str) -> tuple[str, ...]:
    if family == FLUX_OR_CHROMA:
        return ("flux", "chroma")
    return () if family == UNKNOWN else (family,)


def _fits_transformer(m: Module, models: Sequence[Transformer]) -> bool:
    """Whether one of the models has the module's shape at its place; True if none has the place."""
    if (place := place_of(without_root(m.name))) is None:
        return any(_fits_outside_of_blocks(m, model) for model in models)
    own = [model for model in models if (place.blocks, place.layer) in model.layers]
    shape = m.out_features, m.in_features
    return not own or any(fits(model, place, shape) for model in own)


def _fits_outside_of_blocks(m: Module, model: Transformer) -> bool:
    """True for a family whose layers there are in no table."""
    own = OUTSIDE_OF_BLOCKS.get(model.family)
    return own is None or any(
        side in own or side in range(model.width, 12 * model.width + 1, model.width)
        for side in (m.out_features, m.in_features)
    )


def _fits_table(m: Module, block: Block, shapes: Shapes | None) -> bool:
    if shapes is None or (m.out_features, m.in_features) in shapes:
        return True
    return block.part == UNKNOWN_PART and _fits_one_side(m, shapes)


def _fits_one_side(m: Module, shapes: Shapes) -> bool:
    return any(m.out_features == out or m.in_features == width for out, width in shapes)


def _parse(table: str) -> Shapes:
    rows = (row.split(":") for row in table.split())
    return frozenset((int(out), int(width)) for out, ins in rows for width in ins.split(","))


# family -> sides of layers outside of the blocks that are no multiple of its width
OUTSIDE_OF_BLOCKS: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(("flux", "flux2", "hunyuanvideo", "ltx", "qwenimage", "sd3"), ()),
    "chroma": (5120,),
    "ltx2": (2048,),
    "wan": (1280,),
    "zimage": (1024,),
}

_CLIP_L = "768:768,3072 3072:768 "
_CLIP_G = "1280:1280,5120 5120:1280 "
_T5 = "4096:4096,10240 10240:4096 "
TEXT_ENCODERS = {
    "sd15": _parse(_CLIP_L),
    "sd2": _parse("1024:1024,4096 4096:1024"),
    "sdxl": _parse(_CLIP_L + _CLIP_G),
    "sd3": _parse(_CLIP_L + _CLIP_G + _T5),
    "flux": _parse(_CLIP_L + _T5),
}

_UNETS = {
    "sd15": (
        "4:2880 320:36,320,640,768,960,1280,2880,5760,8640 "
        "640:320,640,768,960,1280,1920,2560,2880,5760,8640,11520,17280 "
        "1280:320,640,768,1280,1920,2560,5120,5760,11520,17280,23040 2560:320 5120:640 "
        "10240:1280"
    ),
    "sd2": (
        "4:2880 320:36,320,640,960,1024,1280,2880,5760,8640 "
        "640:320,640,960,1024,1280,1920,2560,2880,5760,8640,11520,17280 "
        "1280:320,640,1024,1280,1920,2560,5120,5760,11520,17280,23040 2560:320 5120:640 "
        "10240:1280"
    ),
    "sdxl": (
        "4:2880 320:36,640,960,1280,2880,5760,8640 "
        "640:320,640,960,1280,1920,2048,2560,2880,5760,8640,11520,17280 "
        "1280:320,640,1280,1920,2048,2560,2816,5120,5760,11520,17280,23040 5120:640 "
        "10240:1280"
    ),
}
UNETS = {family: _parse(table) for family, table in _UNETS.items()}
