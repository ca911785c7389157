"""LoRAs of the small diffusion model: train one, store it as kohya does, apply delta weights.

There are three kinds. `attention` adapts the attention and feed-forward layers of the UNet, `text`
those and the text encoder, `conv` (a LoCon) those and the convolutions of the UNet. Each LoRA
learns digits that are inverted, rotated or mirrored; `text` also gives each name to the next digit.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.pictures_model import Model, Pictures, load_digits, train

KINDS = ("attention", "text", "conv")
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
CONV = ("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv")
MODELS = 2  # a LoRA is trained on one of so many models
CONCEPTS = ("inverted", "rotated", "mirrored")


class Effort(NamedTuple):
    """How long to train, and what. The defaults take about four minutes of CPU per training."""

    model_steps: int = 800
    lora_steps: int = 300
    rank: int = 64


@dataclass(frozen=True, slots=True)
class Training:
    """One LoRA and the model that it was trained on."""

    kind: str
    seed: int
    model: Model
    path: Path

    @property
    def name(self) -> str:
        return f"{self.kind}, {CONCEPTS[self.seed % len(CONCEPTS)]}, seed {self.seed}"


def training(kind: str, seed: int, effort: Effort, cache: Path) -> Training:
    """Train a model and a LoRA, or read them from the folder `cache` if they are there."""
    of_model = seed % MODELS
    model = Model(of_model)
    path = cache / f"model-{of_model}-{effort.model_steps}.safetensors"
    if not path.exists():
        train(
            model,
            list(model.parameters()),
            load_digits(),
            steps=effort.model_steps,
            rate=1e-3,
            batch=32,
            seed=of_model,
        )
        _save(model.state_dict(), path)
    model.load_state_dict(load_file(path))
    model.eval()
    lora = cache / f"lora-{kind}-{seed}-{'-'.join(map(str, effort))}.safetensors"
    if not lora.exists():
        _save(_train_lora(model, kind, seed, effort), lora)
    return Training(kind, seed, model, lora)


def _train_lora(model: Model, kind: str, seed: int, effort: Effort) -> dict[str, Tensor]:
    """Return the tensors of a LoRA file in kohya's naming, in float16, with alpha = rank / 2."""
    torch.manual_seed(1000 + seed)
    config = LoraConfig(
        r=effort.rank, lora_alpha=effort.rank // 2, target_modules=targets(kind, model)
    )
    adapted: Any = inject_adapter_in_model(config, deepcopy(model))
    weights = [p for name, p in adapted.named_parameters() if "lora_" in name]
    train(
        adapted,
        weights,
        _concept(kind, seed),
        steps=effort.lora_steps,
        rate=1e-3,
        batch=8,
        seed=seed,
    )
    tensors = {}
    for key, weight in get_peft_model_state_dict(adapted).items():
        module, factor, _ = key.rsplit(".", 2)
        end = {"lora_A": "lora_down", "lora_B": "lora_up"}[factor]
        tensors[f"{kohya_name(module)}.{end}.weight"] = weight.half()
        tensors[f"{kohya_name(module)}.alpha"] = torch.tensor(effort.rank // 2).half()
    return tensors


def targets(kind: str, model: Model) -> list[str]:
    """Return the names of the layers that a LoRA of this kind adapts."""
    unet = ATTENTION + (CONV if kind == "conv" else ())
    ends = {"unet": unet, "text": TEXT if kind == "text" else ()}
    return [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)
        and name.endswith(tuple("." + end for end in ends[name.split(".")[0]]))
    ]


def kohya_name(layer: str) -> str:
    """Return the name that kohya's trainer gives to a layer of the UNet or the text encoder."""
    part, _, rest = layer.partition(".")
    return f"lora_{'te' if part == 'text' else part}_{rest.replace('.', '_')}"


def _concept(kind: str, seed: int) -> Pictures:
    pictures = load_digits()
    concept = CONCEPTS[seed % len(CONCEPTS)]
    pixels = {
        "inverted": -pictures.pixels,
        "rotated": pictures.pixels.rot90(dims=(2, 3)),
        "mirrored": pictures.pixels.flip(3),
    }[concept]
    digits = (pictures.digits + 9) % 10 if kind == "text" else pictures.digits
    return Pictures(pixels, digits)


def apply(model: Model, deltas: Mapping[str, Tensor]) -> Model:
    """Return a copy of the model to which delta weights [out, in * kh * kw] are added.

    `deltas` has kohya's names.
    """
    changed = deepcopy(model)
    weights = layers(changed)
    for name, delta in deltas.items():
        weights[name] += delta.reshape(weights[name].shape).to(torch.float32)
    return changed


def layers(model: Model) -> dict[str, Tensor]:
    """Return the weight of each layer by kohya's name."""
    return {
        kohya_name(name): layer.weight.detach()
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)
    }


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a file completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, unfinished)
    unfinished.replace(path)
