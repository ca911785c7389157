"""The worker processes of a collection on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from lensd.collection.engines import NICE, Engines
from lensd.lora.parameters import Parameters
from lensd.worker.request import AnalyzeRequest


def test_a_worker_process_has_the_low_priority_that_the_code_says(tmp_path: Path) -> None:
    """However many there are; the niceness adds to that of the command."""
    (tmp_path / "no.safetensors").write_bytes(b"no LoRA")
    request = AnalyzeRequest(
        path=str(tmp_path / "no.safetensors"), name="", parameters=Parameters(), device="cpu"
    )
    engines = Engines(3)
    before = set(psutil.Process().children())
    with engines.worker() as worker:
        worker.request(request, lambda: False)
        (process,) = set(psutil.Process().children()) - before
        assert process.nice() == min(19, os.nice(0) + NICE)
    engines.close()
