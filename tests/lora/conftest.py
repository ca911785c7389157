"""Use one torch thread, because the tests may share a busy machine."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
