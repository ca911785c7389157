"""bench.before_after: the contents of files, and the error between two files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bench import before_after
from tests.support.realistic import SMALL_MODULES, small_lora


def test_facts_are_those_of_the_file(tmp_path: Path) -> None:
    path = small_lora(tmp_path / "a.safetensors", rank=12).path
    data = path.read_bytes()
    facts = before_after.facts(path)
    assert (facts.size, facts.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert (facts.formats, facts.ranks) == (("F16",), (12,) * len(SMALL_MODULES))
    assert facts.rank_range == "12 / 12 / 12"
    assert facts.metadata["ss_network_dim"] == "12"


def test_a_file_is_no_distance_from_itself(tmp_path: Path) -> None:
    path = small_lora(tmp_path / "a.safetensors").path
    assert before_after.delta_error(path, path) == pytest.approx(0.0, abs=1e-7)


def test_distance_is_that_of_the_full_delta_weights(tmp_path: Path) -> None:
    """So it is for files of different rank and alpha too."""
    old = small_lora(tmp_path / "a.safetensors", rank=16, alpha=8.0, seed=1)
    new = small_lora(tmp_path / "b.safetensors", rank=10, alpha=4.0, seed=2)
    apart = sum((old.deltas[name] - new.deltas[name]).square().sum() for name in old.deltas)
    norm = sum(delta.square().sum() for delta in old.deltas.values())
    expected = float(apart / norm) ** 0.5
    assert before_after.delta_error(old.path, new.path) == pytest.approx(expected, rel=1e-9)


def test_files_of_different_modules_have_no_distance(tmp_path: Path) -> None:
    old = small_lora(tmp_path / "a.safetensors").path
    new = small_lora(tmp_path / "b.safetensors", modules=SMALL_MODULES[1:]).path
    with pytest.raises(ValueError, match="different modules"):
        before_after.delta_error(old, new)


def test_a_number_that_is_not_finite_is_found(tmp_path: Path) -> None:
    path = small_lora(tmp_path / "a.safetensors").path
    assert before_after.not_finite(path) == []
    tensors = load_file(path)
    name = sorted(tensors)[1]
    tensors[name].flat[3] = np.nan
    save_file(tensors, tmp_path / "b.safetensors")
    assert before_after.not_finite(tmp_path / "b.safetensors") == [name]
