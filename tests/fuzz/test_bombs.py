"""Hostile LoRA files, each compressed by the real worker: cheap, and with a reason or right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lensd.engine import task
from lensd.worker.request import CompressResult
from tests.engine import asking
from tests.fuzz import bombs, limits
from tests.lora import making
from tests.support import suites


def test_modules_with_alpha_0_do_not_count(tmp_path: Path) -> None:
    """The check has the error of the other modules, as the log does; see formats.md."""
    tensors: making.Tensors = {}
    for name, alpha in (("unet_x", 4.0), ("te_text_model_encoder_layers_0_mlp_fc1", 0.0)):
        up, down = (t.half() for t in making.factors("decaying", 60, 40, 8, 0))
        tensors |= making.kohya(f"lora_{name}", making.Made(up, down, 4.0))
        tensors[f"lora_{name}.alpha"] = torch.tensor(alpha)
    source, out = tmp_path / "a.safetensors", tmp_path / "out"
    save_file(tensors, source)
    measures = task.compress(asking.output(source, out, min_saving=-1.0, mode="int8"))
    assert measures.modules == 1
    bombs.check(source, out, CompressResult(measures=measures))


@pytest.mark.slow
@pytest.mark.fault("killing file")
def test_hostile_files_cost_little(tell: Callable[[str], None]) -> None:
    """None takes 30 s or 512 MiB more than an ordinary file, and none ends as a bug."""
    tell(f"{bombs.run(1000 if suites.FULL else 60)} (seed {bombs.SEED})")


@pytest.mark.slow
@pytest.mark.fault("killing file")
def test_the_largest_modules_that_are_not_refused(tell: Callable[[str], None]) -> None:
    """They need less than 30 s and 512 MiB in every mode, whatever their factors are."""
    for line in limits.table(limits.RANKS if suites.FULL else limits.RANKS[:1]):
        tell(line)
