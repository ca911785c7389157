"""CPU or GPU."""

from __future__ import annotations

import pytest

from lensd.worker.device import CUDA_FREE_BYTES, choose, predicted_cpu_seconds

ROOM, CROWDED = CUDA_FREE_BYTES, CUDA_FREE_BYTES - 1


@pytest.mark.parametrize(
    ("setting", "seconds", "free", "device"),
    [
        ("auto", 1.0, ROOM, "cpu"),
        ("auto", 11.0, ROOM, "cuda"),
        ("auto", 11.0, CROWDED, "cpu"),
        ("auto", 11.0, None, "cpu"),
        ("cpu", 1e9, ROOM, "cpu"),
        ("cuda", 0.1, CROWDED, "cuda"),
        ("cuda:1", 0.1, None, "cuda:1"),
    ],
)
def test_the_gpu_is_for_large_files_and_free_memory(
    setting: str, seconds: float, free: int | None, device: str
) -> None:
    """`auto` leaves it to the user's image generation otherwise; a named device is taken."""
    assert device == choose(setting, seconds, free)


def test_more_work_or_fewer_threads_take_longer() -> None:
    """In proportion."""
    assert predicted_cpu_seconds(2e9, 1) == 2 * predicted_cpu_seconds(1e9, 1)
    assert predicted_cpu_seconds(1e9, 1) == 2 * predicted_cpu_seconds(1e9, 2)
