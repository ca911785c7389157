"""A Stable Diffusion 1.5 LoRA of real size for diffusers: its bytes, and what diffusers applies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lensd.engine.reader import Source
from lensd.lora import fidelity
from tests.engine import asking
from tests.loading import files, pipelines
from tests.support.realistic import write_lora

AGREE = 1e-3
SMALLER = 0.56  # than the output of mode rank


def real_sd15() -> Any:
    """The real models, whose weights are never written, so that they take no memory."""
    clip = pipelines.libraries().transformers.CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
    )
    with torch.device("meta"):
        encoder = pipelines.libraries().transformers.CLIPTextModel(clip)
        unet = pipelines.libraries().diffusers.UNet2DConditionModel(cross_attention_dim=768)
    return pipelines.libraries().diffusers.StableDiffusionPipeline(
        vae=None,
        text_encoder=encoder.to_empty(device="cpu"),
        tokenizer=None,
        unet=unet.to_empty(device="cpu"),
        scheduler=pipelines.libraries().diffusers.EulerDiscreteScheduler(steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def applied_error(original: Path, output: Path) -> float:
    """Return ||delta - applied|| / ||delta|| over all modules, as diffusers applies `output`."""
    pipeline = real_sd15()
    pipeline.load_lora_weights(str(output))
    error = energy = 0.0
    with Source.open(str(original)) as source:
        modules = {m.name: m for m in source.layout.modules}
        left = set(modules)
        for layer in pipelines.lora_layers(pipeline):
            name = files.kohya_name(layer.place)
            up, down = (t.double().flatten(1) for t in source.factors(modules[name]))
            up *= (source.alpha(modules[name]) or modules[name].rank) / modules[name].rank
            error += fidelity.squared_distance(up, down, layer.scale * layer.up, layer.down)
            energy += fidelity.squared_norm(up, down)
            left.remove(name)
    assert not left
    return float((error / energy) ** 0.5)


def test_float8_halves_the_bytes_and_applies_with_the_reported_error(tmp_path: Path) -> None:
    """At 99 % of the energy, in mode ultra."""
    source, out = tmp_path / "a.safetensors", tmp_path / "out.safetensors"
    write_lora(source)
    rank = asking.compress(source, out, mode="rank", targets=("diffusers",))
    numbers = asking.compress(source, out, mode="ultra", targets=("diffusers",))
    assert numbers["encodings"]["float8"] > 0.95 * numbers["modules"]
    assert numbers["bytes_out"] <= SMALLER * rank["bytes_out"]
    assert applied_error(source, out) == pytest.approx(numbers["delta_error"], abs=AGREE)
