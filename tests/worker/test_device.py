"""CPU or GPU."""

from __future__ import annotations

import pytest

from lensd.worker.device import CUDA_FREE_BYTES, Work, choose, predicted_cpu_seconds

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
    assert device == choose(setting, seconds, lambda: free)


@pytest.mark.parametrize(("setting", "seconds"), [("cpu", 1e9), ("cuda", 1e9), ("auto", 9.0)])
def test_the_gpu_is_not_asked_where_nothing_depends_on_it(setting: str, seconds: float) -> None:
    """Its answer takes memory from it."""

    def ask() -> int:
        raise AssertionError("a CUDA context was created")

    choose(setting, seconds, ask)


def test_more_work_or_fewer_threads_take_longer() -> None:
    """In proportion."""
    once, twice = Work(200, 1e7, 1e9), Work(400, 2e7, 2e9)
    assert predicted_cpu_seconds(twice, 1) == 2 * predicted_cpu_seconds(once, 1)
    assert predicted_cpu_seconds(once, 1) == 2 * predicted_cpu_seconds(once, 2)
