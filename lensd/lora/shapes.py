"""Name the modules whose factors fit no layer of the base model that the names point to.

A table has, per family, the shapes of the layers that trainers adapt: out:in,in,... with the
kernel in `in`, over all namings (fused and split projections, convolutions). Variants of a family
differ in the layers before the first and after the last block, so one side is enough there.
"""

from __future__ import annotations

from collections.abc import Iterator

from lensd.lora.blocks import UNKNOWN_PART, block_of
from lensd.lora.layout import Layout, Module

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
    """Yield nothing for families without a table."""
    denoiser, encoders = (table.get(layout.family) for table in (DENOISERS, TEXT_ENCODERS))
    for m in layout.modules:
        block = block_of(m.name)
        shapes = encoders if block.part.startswith("te") else denoiser
        if shapes is None or (m.out_features, m.in_features) in shapes:
            continue
        if block.part != UNKNOWN_PART or not _fits_one_side(m, shapes):
            yield m


def _fits_one_side(m: Module, shapes: Shapes) -> bool:
    return any(m.out_features == out or m.in_features == width for out, width in shapes)


def _parse(table: str) -> Shapes:
    rows = (row.split(":") for row in table.split())
    return frozenset((int(out), int(width)) for out, ins in rows for width in ins.split(","))


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

_DENOISERS = {
    "chroma": ("64:3072 3072:64,3072,4096,5120,12288,15360 5120:64,5120 12288:3072"),
    "flux": (
        "64:3072 3072:64,256,768,3072,4096,12288,15360 6144:3072 9216:3072 12288:3072 "
        "18432:3072 21504:3072"
    ),
    "flux2": (
        "128:3072,4096,6144 3072:128,256,3072,7680,9216,12288 4096:128,256,4096,12288,16384 "
        "6144:128,256,3072,6144,15360,18432,24576 8192:4096 9216:3072 12288:4096,6144 "
        "18432:3072,6144 24576:4096 27648:3072 36864:4096,6144 55296:6144"
    ),
    "hunyuanvideo": (
        "64:3072 3072:64,256,768,3072,4096,12288,15360 6144:3072 9216:3072 12288:3072 "
        "18432:3072 21504:3072"
    ),
    "ltx": ("128:2048 2048:128,256,2048,4096,8192 4096:4096,16384 8192:2048 12288:2048 16384:4096"),
    "ltx2": (
        "128:2048,4096 2048:128,256,2048,3840,4096,8192 4096:128,256,2048,3840,4096,16384 "
        "8192:2048 12288:2048 16384:4096 24576:4096"
    ),
    "qwenimage": ("64:3072 3072:64,256,3072,3584,12288 6144:3072 12288:3072 18432:3072"),
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
    "sd3": (
        "64:1536,2432 1536:64,256,1536,2048,4096,6144 2432:64,256,2048,2432,4096,9728 "
        "3072:1536 4608:1536 4864:2432 6144:1536 7296:2432 9216:1536 9728:2432 13824:1536 "
        "14592:2432"
    ),
    "sdxl": (
        "4:2880 320:36,640,960,1280,2880,5760,8640 "
        "640:320,640,960,1280,1920,2048,2560,2880,5760,8640,11520,17280 "
        "1280:320,640,1280,1920,2048,2560,2816,5120,5760,11520,17280,23040 5120:640 "
        "10240:1280"
    ),
    "wan": (
        "64:1536,5120 192:3072 1280:1280 1536:64,256,1536,4096,8960 "
        "3072:192,256,3072,4096,14336 5120:64,144,256,1280,4096,5120,13824 8960:1536 "
        "9216:1536 10240:5120 13824:5120 14336:3072 18432:3072 30720:5120"
    ),
    "zimage": (
        "64:3840 256:1024 1024:256 3840:64,256,2560,3840,10240 10240:3840 11520:3840 15360:256"
    ),
}
DENOISERS = {family: _parse(table) for family, table in _DENOISERS.items()}
