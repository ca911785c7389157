"""`strict_energy`: the error, with that of the encoding, is at most sqrt(1 - energy)."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from lensd.engine import task
from lensd.errors import Kept
from tests.engine import asking
from tests.engine.asking import compress, deltas
from tests.support.architectures import sd15
from tests.support.realistic import write_lora


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of real shapes with 17 modules, whose ranks are fine steps of energy."""
    path = tmp_path_factory.mktemp("strict") / "a.safetensors"
    modules = [m for m in sd15() if "down_blocks.0.attentions.0" in m.path or "layers.3." in m.path]
    write_lora(path, rank=48, alpha=24, modules=modules, effective_rank=20)
    return path


def errors(before: Path, after: Path) -> tuple[float, float]:
    """Return the largest relative error of a module and that of the file, from full matrices."""
    old, new = deltas(before), deltas(after)
    lost = {n: float((old[n] - new[n]).square().sum()) for n in old}
    energies = {n: float(d.square().sum()) for n, d in old.items()}
    worst = max((lost[n] / e) ** 0.5 for n, e in energies.items() if e)
    return worst, math.sqrt(sum(lost.values()) / sum(energies.values()))


@pytest.mark.parametrize(
    ("allocation", "energy"),
    [
        ("file", 0.99),
        pytest.param("module", 0.99, marks=pytest.mark.slow),
        pytest.param("file", 0.999, marks=pytest.mark.slow),
        pytest.param("module", 0.999, marks=pytest.mark.slow),
    ],
)
def test_the_error_stays_below_that_of_the_energy(
    real: Path, tmp_path: Path, allocation: str, energy: float
) -> None:
    """Without it the encoding's error exceeds it, by module or by file; it costs a few percent."""
    loose, strict = tmp_path / "loose", tmp_path / "strict"
    at = 0 if allocation == "module" else 1
    settings = {"allocation": allocation, "energy": energy}
    usual = compress(real, loose, **settings)
    assert errors(real, loose)[at] > (1 - energy) ** 0.5
    numbers = compress(real, strict, strict_energy=True, **settings)
    assert errors(real, strict)[at] <= (1 - energy) ** 0.5
    assert 1 < numbers["bytes_out"] / usual["bytes_out"] < 1.35
    again = compress(real, tmp_path / "again", strict_energy=True, **settings)
    assert again["sha256_out"] == numbers["sha256_out"]


@pytest.mark.slow
def test_int8_that_alone_exceeds_it_is_replaced_by_floats(real: Path, tmp_path: Path) -> None:
    """The noise of int8 is up to 1.8 % in this file, and 0.99975 allows 1.58 %."""
    out = tmp_path / "out"
    for mode in ("int8", "ultra"):
        numbers = compress(real, out, mode=mode, energy=0.99975, strict_energy=True)
        assert errors(real, out)[0] <= 0.00025**0.5
        assert numbers["encodings"]["float"] > 0
        assert numbers["float_because"] == {"noise": numbers["encodings"]["float"]}


@pytest.mark.slow
def test_a_constant_rank_is_raised_for_all_modules(real: Path, tmp_path: Path) -> None:
    """The module with the largest error decides."""
    out = tmp_path / "out"
    numbers = compress(real, out, energy=0.999, constant_rank=True, strict_energy=True)
    assert numbers["rank_out"]["min"] == numbers["rank_out"]["max"]
    assert errors(real, out)[0] <= 0.001**0.5


@pytest.mark.parametrize("settings", [{"max_rank": 1}, {"max_rank": 1, "allocation": "file"}])
def test_a_file_that_cannot_keep_to_it_stays(
    real: Path, tmp_path: Path, settings: dict[str, object]
) -> None:
    """The reason is strict_energy, with the error, and the attempts end."""
    with pytest.raises(Kept, match="raise `max_rank`") as caught:
        compress(real, tmp_path / "out", strict_energy=True, **settings)
    assert caught.value.reason == "strict_energy"
    assert caught.value.measures.delta_error


def test_a_target_size_ignores_it(real: Path, tmp_path: Path) -> None:
    """It ignores `energy` too."""
    settings = {"target_size": 400_000, "allocation": "file"}
    one = compress(real, tmp_path / "one", **settings)
    two = compress(real, tmp_path / "two", strict_energy=True, **settings)
    assert one["sha256_out"] == two["sha256_out"]


@pytest.mark.slow
def test_an_analysis_foresees_it(real: Path, tmp_path: Path) -> None:
    """The predicted size of ultra is that of the output, to the byte."""
    found = task.analyze(asking.analysis(real, strict_energy=True, energy=0.99))
    numbers = compress(real, tmp_path / "out", strict_energy=True, energy=0.99)
    assert found.predicted.ultra == numbers["bytes_out"]
