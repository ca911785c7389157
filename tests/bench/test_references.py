"""bench.references and bench.engine: what they compute and report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bench import engine, references
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


@pytest.mark.slow
@pytest.mark.parametrize("way", references.WAYS)
def test_each_reference_prints_its_seconds(tmp_path: Path, way: str) -> None:
    """It prints one number per round, as JSON."""
    made = small_lora(tmp_path / "a.safetensors")
    found = engine.reference(way, made.path, 2)
    assert len(found) == 2
    assert all(0 < seconds < 60 for seconds in found)


@pytest.mark.slow
def test_a_worker_is_measured(tmp_path: Path) -> None:
    """Every mode has seconds for every round, and the memory above that of the bare process."""
    made = small_lora(tmp_path / "a.safetensors")
    code = "import sys; from pathlib import Path; from bench import engine; import json;"
    code += "engine.ROUNDS = 1; print(json.dumps(engine.measure(*map(Path, sys.argv[1:]))))"
    said = subprocess.check_output(
        [sys.executable, "-c", code, str(made.path), str(tmp_path)], text=True
    )
    found = json.loads(said)
    on_gpu = [f"{mode} cuda" for mode in engine.MODES] if torch.cuda.is_available() else []
    modes = [*engine.MODES, *on_gpu]
    assert found["bytes"] == made.path.stat().st_size
    assert {what: len(s) for what, s in found["seconds"].items()} == dict.fromkeys(
        (*engine.REFERENCES, *modes, "busy", "full"), 1
    )
    assert set(found["mib_above_bare"]) == set(found["bytes_out"]) == set(modes)
    assert found["bytes_out"]["ultra"] < found["bytes_out"]["rank"] < found["bytes"]
    said = "\n".join(engine.report("a", found))
    assert all(words in said for words in ("x as fast as qr", "times smaller", "of ultra alone"))
