"""Files of every dialect in the encodings, for tiny models; and what their factors mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from lensd.lora.portability import Encoding
from tests.loading import files, pipelines, transformers
from tests.loading.transformers import Shape

FLOAT8 = torch.float8_e4m3fn
KOHYA = (".lora_down.weight", ".lora_up.weight", ".alpha")
PEFT = (".lora_A.weight", ".lora_B.weight", ".alpha")
PEFT_DEFAULT = (".lora_A.default.weight", ".lora_B.default.weight", ".alpha")
LORA = (".lora.down.weight", ".lora.up.weight", ".alpha")
ATTENTION = re.compile(r"(to_[qkv]|to_out\.0|[qkv]_proj|out_proj)$")


class Case(NamedTuple):
    """A dialect with the family of a tiny model, and how its keys are spelled."""

    dialect: str
    family: str
    names: Callable[[str], Mapping[str, Shape]]  # family -> name of a module -> its shape
    suffixes: tuple[str, str, str]  # of down, up and alpha


class File(NamedTuple):
    """A file in memory, and one in float32 that means the same."""

    tensors: dict[str, Tensor]
    in_floats: dict[str, Tensor]
    energy: float  # of what it means: the sum of the squared norms


@cache
def _layers(family: str) -> Mapping[str, Shape]:
    """`component/path` of the linear layers in the blocks of a tiny model."""
    if family in pipelines.PIPELINES:
        found = pipelines.layers(pipelines.PIPELINES[family]())
        return {k: v[:2] for k, v in files.adapted(found, convolutions=False).items() if not v[2]}
    found = pipelines.layers(transformers.pipeline(family))
    return {
        k: v[:2]
        for k, v in found.items()
        if re.search(r"/(\w+_blocks|blocks|layers)\.", k) and not v[2]
    }


def _transformer(family: str) -> Mapping[str, Shape]:
    return {
        k.replace("/", "."): v for k, v in _layers(family).items() if k.startswith("transformer")
    }


def _peft(family: str) -> Mapping[str, Shape]:
    return {files.peft_name(k): v for k, v in _layers(family).items()}


def _diffusers(family: str) -> Mapping[str, Shape]:
    return {k: v for k, v in _peft(family).items() if k.startswith("unet")}


def _model(family: str) -> Mapping[str, Shape]:
    return {f"diffusion_model.{k}": v for k, v in transformers.original(family).items()}


def _kohya(family: str) -> Mapping[str, Shape]:
    if family in ("sd15", "sdxl"):
        spell = files.kohya_name if family == "sd15" else files.sgm_name
        return {spell(k): v for k, v in _layers(family).items()}
    if family == "flux":
        return {name: layer[:2] for name, (layer, _) in files.flux_kohya_modules().items()}
    return {f"lora_unet_{k.replace('.', '_')}": v for k, v in transformers.original(family).items()}


def _processors(family: str) -> Mapping[str, Shape]:
    found = {k: v for k, v in _layers(family).items() if ATTENTION.search(k)}
    return {files.old_diffusers_name(k): v for k, v in found.items()}


def _bare_processors(family: str) -> Mapping[str, Shape]:
    found = _processors(family).items()
    return {k.removeprefix("unet."): v for k, v in found if k.startswith("unet.")}


def _xlabs(_: str) -> Mapping[str, Shape]:
    """Only of double blocks: InvokeAI reads no others."""
    width = transformers.W
    return {
        f"double_blocks.0.processor.{part}_lora{n}": (out * width, width)
        for part, out in (("qkv", 3), ("proj", 1))
        for n in (1, 2)
    }


# dialect -> families, names and suffixes
DIALECTS: Mapping[
    str, tuple[tuple[str, ...], Callable[[str], Mapping[str, Shape]], tuple[str, str, str]]
] = {
    "kohya: sd": (("sd15", "sdxl"), _kohya, KOHYA),
    "kohya: flux and others": (("flux", "flux2", "qwenimage", "zimage", "wan"), _kohya, KOHYA),
    "peft transformer: flux": (("flux", "chroma"), _transformer, PEFT),
    "peft transformer: flux2": (("flux2",), _transformer, PEFT),
    "peft transformer: qwenimage, zimage": (("qwenimage", "zimage"), _transformer, PEFT),
    "peft transformer: sd3": (("sd3",), _transformer, PEFT),
    "peft transformer: wan": (("wan",), _transformer, PEFT),
    "peft transformer: video": (("ltx", "ltx2", "hunyuanvideo"), _transformer, PEFT),
    "peft default transformer": (("flux",), _transformer, PEFT_DEFAULT),
    "peft diffusion_model: flux": (("flux",), _model, PEFT),
    "peft diffusion_model: flux2": (("flux2",), _model, PEFT),
    "peft diffusion_model: qwenimage, zimage": (("qwenimage", "zimage"), _model, PEFT),
    "peft diffusion_model: wan": (("wan",), _model, PEFT),
    "peft diffusion_model: ltx": (("ltx",), _model, PEFT),
    "peft unet": (("sd15", "sdxl"), _peft, PEFT),
    "diffusers transformer: flux": (("flux",), _transformer, LORA),
    "diffusers transformer: flux2": (("flux2",), _transformer, LORA),
    "diffusers transformer: others": (
        ("qwenimage", "zimage", "sd3"),
        _transformer,
        LORA,
    ),
    "diffusers transformer: video": (("wan", "ltx", "ltx2", "hunyuanvideo"), _transformer, LORA),
    "diffusers unet processor": (("sd15",), _processors, (".down.weight", ".up.weight", ".alpha")),
    "diffusers processor": (
        ("sd15",),
        _bare_processors,
        (".down.weight", ".up.weight", ".alpha"),
    ),
    "diffusers unet": (("sd15",), _diffusers, LORA),
    "xlabs": (("flux",), _xlabs, (".down.weight", ".up.weight", ".alpha")),
}
CASES = [Case(d, f, names, s) for d, (families, names, s) in DIALECTS.items() for f in families]


@cache
def make(case: Case, encoding: Encoding | None) -> File:
    """Write the same random factors in an encoding; None: float16."""
    down_end, up_end, alpha_end = case.suffixes
    file = File({}, {}, 0.0)
    energy = 0.0
    for at, (name, shape) in enumerate(case.names(case.family).items()):
        rank = 4 + 4 * (at % 2)
        f = files.factors((*shape, ()), rank, at, torch.float32)
        up, down, alpha = encode(f, encoding, files.ALPHA if case.suffixes is KOHYA else None)
        scale = 1.0 if alpha is None else alpha / rank
        file.tensors.update({name + down_end: down, name + up_end: up})
        file.in_floats.update({name + down_end: down.float(), name + up_end: scale * up.float()})
        if alpha is not None:
            alpha_name = name.removesuffix("_lora") if "processor" in name else name
            file.tensors[alpha_name + alpha_end] = torch.tensor(alpha)
        if case.suffixes is KOHYA:  # one alpha for all modules, since diffusers misreads others
            file.in_floats[name + up_end] = rank / files.ALPHA * file.in_floats[name + up_end]
            file.in_floats[name + alpha_end] = torch.tensor(files.ALPHA)
        energy += float((scale * up.double() @ down.double()).square().sum())
    return file._replace(energy=energy)


def encode(
    f: files.Factors, encoding: Encoding | None, alpha: float | None
) -> tuple[Tensor, Tensor, float | None]:
    """Return up, down and alpha: a plain cast, or int8 with both scales in alpha."""
    if encoding == "int8":
        scales = [float(t.abs().max()) / 127 for t in f]
        up, down = ((t / s).round().to(torch.int8) for t, s in zip(f, scales, strict=True))
        return up, down, scales[0] * scales[1] * f.down.shape[0]
    dtype = FLOAT8 if encoding == "float8" else torch.float16
    return f.up.to(dtype), f.down.to(dtype), alpha
