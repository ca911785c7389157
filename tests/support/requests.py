"""Requests to worker processes."""

from __future__ import annotations

from pathlib import Path

from lensd.lora.parameters import Parameters
from lensd.store.identity import Identity
from lensd.worker.request import CompressRequest
from tests.support.realistic import small_lora


def compress_small_lora(folder: Path, job_id: str, seed: int = 1) -> CompressRequest:
    """A request about a new LoRA in a folder, beside its empty temporary."""
    lora = small_lora(folder / f"{job_id}.safetensors", seed=seed).path
    temporary = folder / f".lensd-{job_id}.tmp"
    temporary.touch(0o600)
    found = temporary.stat()
    return CompressRequest(
        job_id=job_id,
        path=str(lora),
        name=lora.name,
        parameters=Parameters(),
        device="cpu",
        identity=Identity.of(lora.stat()),
        temporary=str(temporary),
        temporary_inode=(found.st_dev, found.st_ino),
        min_saving=0.0,
    )
