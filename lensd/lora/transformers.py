"""The layers of the transformers that LoRAs are trained for: names, shapes and numbers of blocks.

The names and shapes are those of diffusers' model classes, and of the original models, which
ComfyUI and kohya's scripts follow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

ANY = 0
DOTTED = re.compile(r"(\w+)\.(\d+)\.(.+)")
# One paragraph a model. Its first line has the family and, for each size of the model, the width
# and the number of blocks in each list of blocks; families with the same layers follow each other.
# A line of one kind of words names lists of blocks; a line that begins with OUTxIN names the layers
# of that shape in them. Numbers below 64 are multiples of the width; `?` is any number. `unknown`:
# models that share layers with a family.
_LAYERS = """
flux 3072:19,38 hunyuanvideo 3072:20,40
transformer_blocks
6x1 norm1.linear norm1_context.linear
1x1 attn.to_q attn.to_k attn.to_v attn.to_out.0
1x1 attn.add_q_proj attn.add_k_proj attn.add_v_proj attn.to_add_out
4x1 ff.net.0.proj ff_context.net.0.proj
1x4 ff.net.2 ff_context.net.2
single_transformer_blocks
3x1 norm.linear
1x1 attn.to_q attn.to_k attn.to_v
4x1 proj_mlp
1x5 proj_out

flux 3072:19,38
double_blocks
6x1 img_mod.lin txt_mod.lin
3x1 img_attn.qkv txt_attn.qkv
1x1 img_attn.proj txt_attn.proj
4x1 img_mlp.0 txt_mlp.0
1x4 img_mlp.2 txt_mlp.2
single_blocks
7x1 linear1
1x5 linear2
3x1 modulation.lin

flux 3072:19,38
double_blocks
3x1 processor.qkv_lora1 processor.qkv_lora2
1x1 processor.proj_lora1 processor.proj_lora2
single_blocks
3x1 processor.qkv
1x5 processor.proj

chroma 3072:19,38
transformer_blocks
1x1 attn.to_q attn.to_k attn.to_v attn.to_out.0
1x1 attn.add_q_proj attn.add_k_proj attn.add_v_proj attn.to_add_out
4x1 ff.net.0.proj ff_context.net.0.proj
1x4 ff.net.2 ff_context.net.2
single_transformer_blocks
1x1 attn.to_q attn.to_k attn.to_v
4x1 proj_mlp
1x5 proj_out

chroma 3072:19,38
double_blocks
3x1 img_attn.qkv txt_attn.qkv
1x1 img_attn.proj txt_attn.proj
4x1 img_mlp.0 txt_mlp.0
1x4 img_mlp.2 txt_mlp.2
single_blocks
7x1 linear1
1x5 linear2

flux2 6144:8,48 4096:8,24 3072:5,20
transformer_blocks
1x1 attn.to_q attn.to_k attn.to_v attn.to_out.0
1x1 attn.add_q_proj attn.add_k_proj attn.add_v_proj attn.to_add_out
6x1 ff.linear_in ff_context.linear_in
1x3 ff.linear_out ff_context.linear_out
single_transformer_blocks
9x1 attn.to_qkv_mlp_proj
1x4 attn.to_out

flux2 6144:8,48 4096:8,24 3072:5,20
double_blocks
3x1 img_attn.qkv txt_attn.qkv
1x1 img_attn.proj txt_attn.proj
6x1 img_mlp.0 txt_mlp.0
1x3 img_mlp.2 txt_mlp.2
single_blocks
9x1 linear1
1x4 linear2

hunyuanvideo 3072:20,40
double_blocks
6x1 img_mod.linear txt_mod.linear
3x1 img_attn_qkv txt_attn_qkv
1x1 img_attn_proj txt_attn_proj
4x1 img_mlp.fc1 txt_mlp.fc1
1x4 img_mlp.fc2 txt_mlp.fc2
single_blocks
7x1 linear1
1x5 linear2
3x1 modulation.linear

sd3 2432:38 1536:24
transformer_blocks
6x1 norm1.linear norm1_context.linear
9x1 norm1.linear
2x1 norm1_context.linear
1x1 attn.to_q attn.to_k attn.to_v attn.to_out.0
1x1 attn.add_q_proj attn.add_k_proj attn.add_v_proj attn.to_add_out
1x1 attn2.to_q attn2.to_k attn2.to_v attn2.to_out.0
4x1 ff.net.0.proj ff_context.net.0.proj
1x4 ff.net.2 ff_context.net.2

sd3 2432:38 1536:24
joint_blocks
3x1 context_block.attn.qkv x_block.attn.qkv x_block.attn2.qkv
1x1 context_block.attn.proj x_block.attn.proj x_block.attn2.proj
4x1 context_block.mlp.fc1 x_block.mlp.fc1
1x4 context_block.mlp.fc2 x_block.mlp.fc2
6x1 context_block.adaLN_modulation.1 x_block.adaLN_modulation.1
9x1 x_block.adaLN_modulation.1
2x1 context_block.adaLN_modulation.1

qwenimage 3072:60
transformer_blocks
6x1 img_mod.1 txt_mod.1
1x1 attn.to_q attn.to_k attn.to_v attn.to_out.0
1x1 attn.add_q_proj attn.add_k_proj attn.add_v_proj attn.to_add_out
4x1 img_mlp.net.0.proj txt_mlp.net.0.proj
1x4 img_mlp.net.2 txt_mlp.net.2

zimage 3840:30,2,2
layers noise_refiner context_refiner
1x1 attention.to_q attention.to_k attention.to_v attention.to_out.0
3x1 attention.qkv
1x1 attention.out
10240x1 feed_forward.w1 feed_forward.w3
1x10240 feed_forward.w2
4x256 adaLN_modulation.0

wan 5120:40 3072:30 1536:30
blocks
1x1 attn1.to_q attn1.to_k attn1.to_v attn1.to_out.0
1x1 attn2.to_q attn2.to_k attn2.to_v attn2.to_out.0 attn2.add_k_proj attn2.add_v_proj
?x1 ffn.net.0.proj
1x? ffn.net.2

wan 5120:40 3072:30 1536:30
blocks
1x1 self_attn.q self_attn.k self_attn.v self_attn.o
1x1 cross_attn.q cross_attn.k cross_attn.v cross_attn.o cross_attn.k_img cross_attn.v_img
?x1 ffn.0
1x? ffn.2

ltx 2048:28 4096:48 pixart 1152:28
transformer_blocks
1x1 attn1.to_q attn1.to_k attn1.to_v attn1.to_out.0
1x1 attn2.to_q attn2.to_k attn2.to_v attn2.to_out.0
4x1 ff.net.0.proj
1x4 ff.net.2

ltx2 4096:48
transformer_blocks
1x1 attn1.to_q attn1.to_k attn1.to_v attn1.to_out.0
1x1 attn2.to_q attn2.to_k attn2.to_v attn2.to_out.0
4x1 ff.net.0.proj
1x4 ff.net.2
2048x2048 audio_attn1.to_q audio_attn1.to_k audio_attn1.to_v audio_attn1.to_out.0
2048x2048 audio_attn2.to_q audio_attn2.to_k audio_attn2.to_v audio_attn2.to_out.0
2048x2048 audio_to_video_attn.to_k audio_to_video_attn.to_v
2048x2048 video_to_audio_attn.to_q video_to_audio_attn.to_out.0
2048x1 audio_to_video_attn.to_q video_to_audio_attn.to_k video_to_audio_attn.to_v
1x2048 audio_to_video_attn.to_out.0
8192x2048 audio_ff.net.0.proj
2048x8192 audio_ff.net.2

hidream 2560:16,32
double_stream_blocks single_stream_blocks
12x1 block.adaLN_modulation.1
6x1 block.adaLN_modulation.1
1x1 block.attn1.to_q block.attn1.to_k block.attn1.to_v block.attn1.to_out
1x1 block.attn1.to_q_t block.attn1.to_k_t block.attn1.to_v_t block.attn1.to_out_t
3584x1 block.ff_i.shared_experts.w1 block.ff_i.shared_experts.w3
1x3584 block.ff_i.shared_experts.w2
6912x1 block.ff_i.experts.0.w1 block.ff_i.experts.1.w1 block.ff_i.experts.2.w1
6912x1 block.ff_i.experts.3.w1 block.ff_i.experts.0.w3 block.ff_i.experts.1.w3
6912x1 block.ff_i.experts.2.w3 block.ff_i.experts.3.w3 block.ff_t.w1 block.ff_t.w3
1x6912 block.ff_i.experts.0.w2 block.ff_i.experts.1.w2 block.ff_i.experts.2.w2
1x6912 block.ff_i.experts.3.w2 block.ff_t.w2

lumina2 2304:26,2,2
layers noise_refiner context_refiner
1x1 attn.to_q attn.to_out.0
768x1 attn.to_k attn.to_v
4x1 feed_forward.linear_1 feed_forward.linear_3
1x4 feed_forward.linear_2
4x1024 norm1.linear

lumina2 2304:26,2,2
layers noise_refiner context_refiner
3840x1 attention.qkv
1x1 attention.out
4x1 feed_forward.w1 feed_forward.w3
1x4 feed_forward.w2
4x1024 adaLN_modulation.1

sana 2240:20 1152:28
transformer_blocks
1x1 attn1.to_q attn1.to_k attn1.to_v attn1.to_out.0
1x1 attn2.to_q attn2.to_k attn2.to_v attn2.to_out.0
?x1 ff.conv_inverted
?x? ff.conv_depth
1x? ff.conv_point

auraflow 3072:4,32
joint_transformer_blocks
6x1 norm1.linear norm1_context.linear
1x1 attn.to_q attn.to_k attn.to_v attn.to_out.0
1x1 attn.add_q_proj attn.add_k_proj attn.add_v_proj attn.to_add_out
8192x1 ff.linear_1 ff.linear_2 ff_context.linear_1 ff_context.linear_2
1x8192 ff.out_projection ff_context.out_projection
single_transformer_blocks
6x1 norm1.linear
1x1 attn.to_q attn.to_k attn.to_v attn.to_out.0
8192x1 ff.linear_1 ff.linear_2
1x8192 ff.out_projection

auraflow 3072:4,32
double_layers single_layers
1x1 attn.w1q attn.w1k attn.w1v attn.w1o attn.w2q attn.w2k attn.w2v attn.w2o
8192x1 mlpC.c_fc1 mlpC.c_fc2 mlpX.c_fc1 mlpX.c_fc2 mlp.c_fc1 mlp.c_fc2
1x8192 mlpC.c_proj mlpX.c_proj mlp.c_proj
6x1 modC.1 modX.1 modCX.1

cosmos 2048:28 4096:28 5120:36
transformer_blocks
1x1 attn1.to_q attn1.to_k attn1.to_v attn1.to_out.0 attn2.to_q attn2.to_out.0
1x1024 attn2.to_k attn2.to_v
4x1 ff.net.0.proj
1x4 ff.net.2
256x1 norm1.linear_1 norm2.linear_1 norm3.linear_1
3x256 norm1.linear_2 norm2.linear_2 norm3.linear_2

cosmos 2048:28 5120:36
blocks
1x1 self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.output_proj
1x1 cross_attn.q_proj cross_attn.output_proj
1x1024 cross_attn.k_proj cross_attn.v_proj
4x1 mlp.layer1
1x4 mlp.layer2
256x1 adaln_modulation_self_attn.1 adaln_modulation_cross_attn.1 adaln_modulation_mlp.1
3x256 adaln_modulation_self_attn.2 adaln_modulation_cross_attn.2 adaln_modulation_mlp.2

unknown 1152:28
transformer_blocks
1x1 attn1.to_q attn1.to_k attn1.to_v attn1.to_out.0
4x1 ff.net.0.proj
1x4 ff.net.2

unknown 3072:28
single_transformer_blocks
1x1 attn.to_q attn.to_k attn.to_v attn.to_out.0

unknown 4096:32
transformer_blocks
1x1 attn.to_q attn.to_k attn.to_v attn.to_out.0
"""


@dataclass(frozen=True, slots=True)
class Transformer:
    """A model of one size, with the names of its original code or those of diffusers."""

    family: str
    width: int
    blocks: dict[str, int] = field(default_factory=dict)  # list of blocks -> their number
    # (list of blocks, layer) -> its shapes (out, in), which may differ between blocks; a layer has
    # two names, as in Place
    layers: dict[tuple[str, str], set[tuple[int, int]]] = field(default_factory=dict)


class Place(NamedTuple):
    """Where a module is in a model: list of blocks, number of the block, and layer.

    In names that join everything with underscores, the layer begins with one: `_img_attn_qkv` can
    be `img_attn.qkv` or `img_attn_qkv`, which are layers of different models.
    """

    blocks: str
    number: int
    layer: str


@cache
def transformers() -> tuple[Transformer, ...]:
    """Return all models."""
    found: list[Transformer] = []
    for paragraph in _LAYERS.strip().split("\n\n"):
        head, *lines = paragraph.splitlines()
        family = ""
        for word in head.split():
            width, is_size, numbers = word.partition(":")
            if is_size:
                found.append(_read_model(family, int(width), numbers, lines))
            else:
                family = word
    return tuple(found)


def _read_model(family: str, width: int, numbers: str, lines: list[str]) -> Transformer:
    model = Transformer(family, width)
    remaining = [int(n) for n in numbers.split(",")]
    lists: list[str] = []
    for first, *names in map(str.split, lines):
        if not first[0].isdigit() and first[0] != "?":
            lists = [first, *names]
            model.blocks.update((name, remaining.pop(0)) for name in lists)
            continue
        rows, columns = (_side(side, width) for side in first.split("x"))
        layers = [spelled for name in names for spelled in (name, "_" + name.replace(".", "_"))]
        for place in ((name, layer) for name in lists for layer in layers):
            model.layers.setdefault(place, set()).add((rows, columns))
    return model


def _side(text: str, width: int) -> int:
    if text == "?":
        return ANY
    return int(text) if int(text) >= 64 else int(text) * width


@cache
def _joined() -> re.Pattern[str]:
    names = sorted({name for model in transformers() for name in model.blocks}, key=len)
    return re.compile(rf"({'|'.join(names)})_(\d+)(_.+)")


def place_of(name: str) -> Place | None:
    """Return the place of a module by its name without the prefix; None if it is in no block."""
    found = (DOTTED if "." in name else _joined()).fullmatch(name)
    return Place(found[1], int(found[2]), found[3]) if found else None


def fits(model: Transformer, place: Place, shape: tuple[int, int]) -> bool:
    """Whether the model has a layer of this shape (out, in) at this place."""
    return any(
        all(own in (ANY, side) for own, side in zip(known, shape, strict=True))
        for known in model.layers.get((place.blocks, place.layer), ())
    )
