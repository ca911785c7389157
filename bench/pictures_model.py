"""A small diffusion model of handwritten digits: its text encoder, UNet, training and sampling.

The architecture is that of Stable Diffusion with narrow layers: a CLIP text encoder reads the
digit's name letter by letter, and a UNet with cross-attention removes noise from 8 x 8 pixels. The
images are scikit-learn's digits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WIDTH = 64  # of the text encoder
LENGTH = 8  # tokens of a prompt: begin, letters, end
BEGIN, END = 27, 28  # after the 26 letters; 0 is padding
NOISE_STEPS = 1000


@dataclass(frozen=True, slots=True)
class Pictures:
    """Images with their digits."""

    pixels: Tensor  # [n, 1, 8, 8], from -1 to 1
    digits: Tensor  # [n]


class Model(nn.Module):
    """Text encoder and UNet, with a forward pass that predicts the noise."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=29,
                hidden_size=WIDTH,
                intermediate_size=2 * WIDTH,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=LENGTH,
                bos_token_id=BEGIN,
                eos_token_id=END,
                pad_token_id=0,
            )
        )
        blocks = ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D")
        self.unet: Any = UNet2DConditionModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            block_out_channels=(64, 128),
            down_block_types=blocks,
            up_block_types=tuple(b.replace("Down", "Up") for b in blocks),
            layers_per_block=1,
            cross_attention_dim=WIDTH,
            attention_head_dim=4,
            norm_num_groups=16,
        )

    def forward(self, noisy: Tensor, step: Tensor, digits: Tensor) -> Tensor:
        states = self.text(_tokens()[digits]).last_hidden_state
        return self.unet(noisy, step, encoder_hidden_states=states).sample


def _tokens() -> Tensor:
    """Return the tokens of each digit's name [10, LENGTH]."""
    rows = [[BEGIN, *(ord(letter) - ord("a") + 1 for letter in name), END] for name in NAMES]
    return torch.tensor([row + [0] * (LENGTH - len(row)) for row in rows])


def load_digits() -> Pictures:
    """Return all images. Raises ModuleNotFoundError without scikit-learn."""
    from sklearn import datasets

    data = datasets.load_digits()
    pixels = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    return Pictures(pixels, torch.tensor(data.target))


def scheduler() -> Any:
    return DDIMScheduler(
        num_train_timesteps=NOISE_STEPS,
        beta_schedule="squaredcos_cap_v2",
        clip_sample=True,
        set_alpha_to_one=True,
    )


def train(
    model: Model,
    weights: list[nn.Parameter],
    pictures: Pictures,
    *,
    steps: int,
    rate: float,
    batch: int,
    seed: int,
) -> float:
    """Train `weights` to predict the noise; return the mean loss of the last quarter."""
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=1e-4)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, rate / 20)
    losses = []
    model.train()
    for loss in _losses(model, pictures, steps, batch, seed):
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        decay.step()
        losses.append(float(loss.detach()))
    model.eval()
    last = losses[-max(1, steps // 4) :]
    return sum(last) / len(last)


def _losses(
    model: Model, pictures: Pictures, steps: int, batch: int, seed: int
) -> Iterator[Tensor]:
    random = torch.Generator().manual_seed(seed)
    noising = scheduler()
    for _ in range(steps):
        at = torch.randint(len(pictures.digits), (batch,), generator=random)
        noise = torch.randn(batch, 1, 8, 8, generator=random)
        step = torch.randint(NOISE_STEPS, (batch,), generator=random)
        noisy = noising.add_noise(pictures.pixels[at], noise, step)
        yield nn.functional.mse_loss(model(noisy, step, pictures.digits[at]), noise)


@torch.inference_mode()
def sample(model: Model, *, images: int, steps: int, seed: int) -> Tensor:
    """Return `images` images [n, 8, 8] of equal seeds, by DDIM; the digits take turns."""
    random = torch.Generator().manual_seed(seed)
    pixels = torch.randn(images, 1, 8, 8, generator=random)
    digits = torch.arange(images) % len(NAMES)
    stepping = scheduler()
    stepping.set_timesteps(steps)
    for step in stepping.timesteps:
        noise = model(pixels, step, digits)
        pixels = stepping.step(noise, int(step), pixels).prev_sample
    return pixels[:, 0].clamp(-1, 1)
