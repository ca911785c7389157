"""Complete events and measures, for tests that need any."""

from __future__ import annotations

from typing import Any

from msgspec import structs

from lensd.logs.events import CompressedSeconds, FileCompressed
from lensd.logs.measures import Analyzed, Energy, Predicted, Ranks, Seconds

SHA = "0" * 64

ANALYZED = Analyzed(
    family="sd15",
    naming="kohya",
    dtype_in="F16",
    bytes_in=151_000_000,
    modules=264,
    rank_in=Ranks(min=1, median=8, max=16),
    rank_out=Ranks(min=1, median=7.5, max=16),
    energy_retained=Energy(min=0.99, overall=0.995),
    seconds=Seconds(read=0.5, compute=0.5),
    device="cpu",
    sha256_in=SHA,
    predicted=Predicted(rank=30_000_000, int8=75_000_000, ultra=15_000_000),
)

COMPRESSED = FileCompressed(
    path="/srv/loras/style.safetensors",
    watch="loras",
    job_id="job",
    mode="ultra",
    family="sd15",
    naming="kohya",
    dtype_in="F16",
    dtype_out="I8",
    bytes_in=151_000_000,
    bytes_out=15_000_000,
    ratio=10.1,
    modules=264,
    rank_in=Ranks(min=1, median=8, max=16),
    rank_out=Ranks(min=1, median=7.5, max=16),
    energy_retained=Energy(min=0.99, overall=0.995),
    delta_error=0.07,
    delta_error_max=0.09,
    snr_db=38.5,
    mse=1e-6,
    mae=1e-3,
    delta_snr_db=None,
    seconds=CompressedSeconds(
        wait=5.0, read=0.5, compute=1.5, write=0.5, verify=0.5, archive=0.5, total=8.5
    ),
    device="cpu",
    sha256_in=SHA,
    sha256_out=SHA,
    archive_method="link",
    archive_path="/srv/lora-archive/loras/style.safetensors",
)


def compressed(**changes: Any) -> FileCompressed:
    """COMPRESSED with other values in some fields."""
    return structs.replace(COMPRESSED, **changes)
