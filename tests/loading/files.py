"""LoRA files for tiny models, in the namings that diffusers reads, and what they mean."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.lora import making

Layer = tuple[int, int, tuple[int, ...]]
ALPHA = 3.0
KINDS = ("decaying", "random", "flat", "decaying")


class Made(NamedTuple):
    """A file, and what it means: `component/path` -> delta weight, float64."""

    path: Path
    deltas: dict[str, Tensor]


class Factors(NamedTuple):
    up: Tensor  # [out, r(, 1, 1)]
    down: Tensor  # [r, in(, kh, kw)]


def adapted(layers: Mapping[str, Layer], *, convolutions: bool) -> dict[str, Layer]:
    """The layers that trainers adapt: attention, feed-forward and projections; LoCon also convs."""
    wanted = re.compile(
        r"\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out|[qkv]_proj|out_proj|fc[12]|net\.\d(\.proj)?"
        r"|proj_in|proj_out|proj_mlp)$"
    )
    return {
        path: layer
        for path, layer in layers.items()
        if wanted.search(path) or (convolutions and ".resnets." in path and layer[2])
    }


def factors(layer: Layer, rank: int, seed: int, dtype: torch.dtype) -> Factors:
    """Spectra of several kinds, so that modules end with different ranks."""
    out, width, kernel = layer
    fan_in = width * (kernel[0] * kernel[1] if kernel else 1)
    up, down = making.factors(KINDS[seed % len(KINDS)], out, fan_in, rank, seed)
    one = [1] * len(kernel)
    return Factors(
        up.to(dtype).reshape(out, rank, *one).contiguous(),
        down.to(dtype).reshape(rank, width, *kernel).contiguous(),
    )


def delta(f: Factors, scale: float) -> Tensor:
    return scale * making.product(f.up, f.down)


def kohya_name(path: str) -> str:
    """`component/path` as sd-scripts spells it for diffusers' module names."""
    component, _, rest = path.partition("/")
    prefix = {
        "unet": "lora_unet_",
        "text_encoder": "lora_te_text_model_",
        "text_encoder_2": "lora_te2_text_model_",
    }[component]
    return prefix + rest.replace(".", "_")


def sgm_name(path: str) -> str:
    """As sd-scripts spells SDXL: the original UNet's blocks, two layers a block and te1, te2."""
    name = kohya_name(path).replace("lora_te_", "lora_te1_")
    name = re.sub(
        r"down_blocks_(\d)_attentions_(\d)",
        lambda m: f"input_blocks_{1 + 3 * int(m[1]) + int(m[2])}_1",
        name,
    )
    name = name.replace("mid_block_attentions_0", "middle_block_1")
    return re.sub(
        r"up_blocks_(\d)_attentions_(\d)",
        lambda m: f"output_blocks_{3 * int(m[1]) + int(m[2])}_1",
        name,
    )


def peft_name(path: str) -> str:
    """`unet.…`; text encoders with the `text_model` that transformers 5 has dropped."""
    component, _, rest = path.partition("/")
    return f"{component}.{'text_model.' * component.startswith('text_encoder')}{rest}"


def flux_kohya_modules() -> dict[str, tuple[Layer, list[str]]]:
    """sd-scripts' name -> its layer, and the layers of diffusers' tiny FLUX that it stands for.

    Not `linear1`: diffusers takes it apart by the widths of the real FLUX only.
    """
    width = 64
    double = {
        "img_mod_lin": (6, 1, ["norm1.linear"]),
        "txt_mod_lin": (6, 1, ["norm1_context.linear"]),
        "img_attn_qkv": (3, 1, [f"attn.to_{x}" for x in "qkv"]),
        "txt_attn_qkv": (3, 1, [f"attn.add_{x}_proj" for x in "qkv"]),
        "img_attn_proj": (1, 1, ["attn.to_out.0"]),
        "txt_attn_proj": (1, 1, ["attn.to_add_out"]),
        "img_mlp_0": (4, 1, ["ff.net.0.proj"]),
        "img_mlp_2": (1, 4, ["ff.net.2"]),
        "txt_mlp_0": (4, 1, ["ff_context.net.0.proj"]),
        "txt_mlp_2": (1, 4, ["ff_context.net.2"]),
    }
    single = {"modulation_lin": (3, 1, ["norm.linear"]), "linear2": (1, 5, ["proj_out"])}
    blocks = [("double_blocks_0", "transformer_blocks.0", double)]
    blocks += [(f"single_blocks_{i}", f"single_transformer_blocks.{i}", single) for i in range(2)]
    return {
        f"lora_unet_{ours}_{name}": (
            (out * width, wide * width, ()),
            [f"transformer/{theirs}.{place}" for place in places],
        )
        for ours, theirs, modules in blocks
        for name, (out, wide, places) in modules.items()
    }


def kohya(f: Factors, name: str, alpha: float) -> dict[str, Tensor]:
    return making.kohya(name, making.Made(f.up, f.down, alpha))


def peft(f: Factors, name: str) -> dict[str, Tensor]:
    return making.peft(name, making.Made(f.up, f.down, None))


def old_diffusers_name(path: str) -> str:
    """The attention processors of diffusers 0.14 to 0.20: `….processor.to_q_lora`."""
    parent, _, leaf = peft_name(path).removesuffix(".0").rpartition(".")
    if path.startswith("unet"):
        parent += ".processor"
    leaf = re.sub(r"^([qkv])_proj$", r"to_\1", leaf).replace("out_proj", "to_out")
    return f"{parent}.{leaf}_lora"


def old_diffusers(f: Factors, path: str) -> dict[str, Tensor]:
    base = old_diffusers_name(path)
    return {f"{base}.down.weight": f.down, f"{base}.up.weight": f.up}


def mixed_rank(index: int, layer: Layer) -> int:
    """8 for most, 12 for some, 4 for real convolutions."""
    if layer[2] and max(layer[2]) > 1:
        return 4
    return 12 if index % 5 == 0 else 8


def write(
    path: Path,
    layers: Mapping[str, Layer],
    spell: Callable[[Factors, str], dict[str, Tensor]],
    *,
    alpha: float | None = None,
    scale: float = 1.0,
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype = torch.float16,
) -> Made:
    """Every layer with its own rank; `spell` gives a layer's tensors.

    It means alpha / rank * up @ down, or without an alpha `scale` times that.
    """
    tensors: dict[str, Tensor] = {}
    deltas = {}
    for index, (place, layer) in enumerate(layers.items()):
        rank = mixed_rank(index, layer)
        f = factors(layer, rank, index, dtype)
        tensors |= spell(f, place)
        deltas[place] = delta(f, scale if alpha is None else alpha / rank)
    save_file(tensors, path, dict(metadata or {"format": "pt"}))
    return Made(path, deltas)


def adapter_entry(layers: Mapping[str, Layer], scale: float) -> dict[str, str]:
    """The header entry that diffusers' trainers write: every rank, and alphas for one scale."""
    entry: dict[str, Any] = {}
    for index, (place, layer) in enumerate(layers.items()):
        component, _, rest = place.partition("/")
        entry |= {f"{component}.r": 8, f"{component}.lora_alpha": 8 * scale}
        rank = mixed_rank(index, layer)
        for pattern, value in (("rank_pattern", rank), ("alpha_pattern", rank * scale)):
            patterns = entry.setdefault(f"{component}.{pattern}", {})
            if rank != 8:
                patterns[rest] = value
        entry.setdefault(f"{component}.target_modules", []).append(rest)
    return {"format": "pt", "lora_adapter_metadata": json.dumps(entry)}


def relative(found: Mapping[str, Tensor], meant: Mapping[str, Tensor]) -> float:
    """||meant - found|| / ||meant|| over all modules together; they must be the same ones."""
    assert found.keys() == meant.keys(), sorted(found.keys() ^ meant.keys())[:10]
    error = sum(float((found[k] - d).square().sum()) for k, d in meant.items())
    return (error / sum(float(d.square().sum()) for d in meant.values())) ** 0.5
