"""bench.prediction: constants that are fitted to measured files."""

from __future__ import annotations

import pytest

from bench import prediction
from bench.engine import RECIPES
from lensd.worker.device import SECONDS, Work, predicted_cpu_seconds

TRUE = Work(modules=1e-3, elements=2e-9, products=5e-11)


def test_the_constants_of_exact_measurements_are_found() -> None:
    """From the shapes of the files of bench.engine."""
    works = [prediction.work_of(recipe) for recipe in RECIPES]
    found = prediction.fit([(work, predicted_cpu_seconds(work, 1, TRUE)) for work in works])
    assert found == pytest.approx(TRUE, rel=0.02)


def test_no_constant_is_negative() -> None:
    """Measurements that ask for one get the best of the others."""
    odd = TRUE._replace(elements=-1e-10)
    works = [prediction.work_of(recipe) for recipe in RECIPES]
    found = prediction.fit([(work, predicted_cpu_seconds(work, 1, odd)) for work in works])
    assert min(found) >= 0


def test_the_constants_of_today_predict_what_was_measured() -> None:
    """Each file of bench/results/engine.json within a factor of two."""
    for name, (work, seconds) in prediction.measured().items():
        assert seconds / 2 < predicted_cpu_seconds(work, 1, SECONDS) < 2 * seconds, name
