"""lensd: a daemon that makes LoRA files smaller and keeps the originals safe."""

from __future__ import annotations

__version__ = "0.1.0"

TYPE_CHECKING = False  # typing's own means the same to a type checker, and costs an import
if TYPE_CHECKING:
    import os

    from torch import Tensor


def load_file(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Float tensors of a LoRA file in its own naming, ready for `pipe.load_lora_weights(...)`.

    From an 8-bit file they are what `lensd expand` writes: float16 (bfloat16 where that would
    overflow), under one alpha for all modules. From a float file they are as stored. A
    strength that stands in the header alone (`lora_adapter_metadata`) is multiplied into the up
    factors, as a state dict has no header. Raises LensdError.
    """
    from lensd.engine import expand

    return expand.load_file(path)
