"""bench.references and bench.engine: what they compute and report."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bench import engine, references
from bench.measured_worker import References
from tests.lora import making
from tests.support.realistic import small_lora


def test_the_qr_reference_keeps_99_percent_of_the_energy(tmp_path: Path) -> None:
    """Each module has fewer ranks; the only other error is rounding to float16."""
    made = small_lora(tmp_path / "a.safetensors")
    references.qr(made.path, tmp_path)
    before, after = load_file(made.path), load_file(tmp_path / "qr")
    assert set(after) == {k for k in before if not k.endswith(".alpha")}
    for down, up in references._pairs(list(before)):
        assert after[down].shape[0] < before[down].shape[0]
        whole, reduced = (
            making.product(t[up].flatten(1), t[down].flatten(1)) for t in (before, after)
        )
        assert making.distance(whole, reduced) <= 0.102


def test_the_peer_keeps_the_values_above_a_share_of_the_largest(tmp_path: Path) -> None:
    """The rank of a module is the number of its singular values above that share."""
    made = small_lora(tmp_path / "a.safetensors")
    references.peer(made.path, tmp_path)
    after = load_file(tmp_path / "peer")
    for name, values in made.spectra().items():
        expected = int((values > references.PEER_SHARE * values[0]).sum())
        assert after[f"{name}.lora_down.weight"].shape[0] == expected


@pytest.mark.slow
def test_each_reference_is_measured(tmp_path: Path) -> None:
    """Each has seconds and CPU seconds."""
    made = small_lora(tmp_path / "a.safetensors")
    with References(made.path) as process:
        found = {way: process.run(way)[:2] for way in references.WAYS}
    assert all(0 < seconds < 60 for cost in found.values() for seconds in cost)


@pytest.mark.slow
def test_a_worker_is_measured(tmp_path: Path) -> None:
    """Every mode has seconds for every round, and the memory above that of the bare process."""
    made = small_lora(tmp_path / "a.safetensors")
    found = engine.measure(made.path, tmp_path, engine.options(["--rounds", "2"]))
    on_gpu = [f"{mode} cuda" for mode in engine.MODES] if torch.cuda.is_available() else []
    modes = [*engine.MODES, *on_gpu]
    assert found["bytes"] == made.path.stat().st_size
    rounds = dict.fromkeys((*engine.REFERENCES, *modes, "busy"), 2)
    assert {what: len(s) for what, s in found["seconds"].items()} == rounds | {"full": 1}
    assert set(found["cpu_seconds"]) == set(found["seconds"])
    assert set(found["mib_above_bare"]) == set(found["bytes_out"]) == set(modes)
    assert found["bytes_out"]["ultra"] < found["bytes_out"]["rank"] < found["bytes"]
    said = "\n".join(engine.report("a", found))
    assert all(words in said for words in ("x qr", "times smaller", "x ultra's seconds"))
