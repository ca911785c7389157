"""lensd.engine.expand and lensd.load_file: expand real int8 files to floats."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import lensd
from lensd.engine import expand
from lensd.engine.compare import compare
from lensd.engine.results import Expanded
from lensd.errors import Skipped, UsageError
from tests.engine import asking
from tests.lora import making
from tests.lora.making import Made, Tensors

HALF = 5e-4


def expanded(path: Path, at: Path) -> Expanded:
    at.touch()
    return expand.expand(str(path), str(at), (at.stat().st_dev, at.stat().st_ino))


def ultra(tensors: Tensors, folder: Path, metadata: dict[str, str] | None = None) -> Path:
    """Write these tensors to a file, and return its int8 output."""
    source, out = folder / "a.safetensors", folder / "int8.safetensors"
    save_file(tensors, source, metadata)
    assert asking.compress(source, out, mode="ultra")["encodings"]["int8"]
    return out


def peft_file() -> Tensors:
    """Return modules with names of FLUX, without alpha, whose ranks will differ."""
    tensors: Tensors = {}
    for at, name in enumerate(("attn.to_q", "attn.to_k", "ff.net.2")):
        kind = ("decaying", "random", "decaying")[at]
        up, down = (t.half() for t in making.factors(kind, 40, 24 + at, 4 + 4 * at, at))
        tensors |= making.peft(f"transformer.transformer_blocks.0.{name}", Made(up, down, None))
    return tensors


def entry(path: Path) -> Any:
    return json.loads(asking.metadata_of(path)["lora_adapter_metadata"])


def test_an_expanded_file_has_the_delta_weights_of_the_int8_file(tmp_path: Path) -> None:
    """They agree up to float16's rounding; all modules have the original's alpha."""
    out, at = ultra(making.small_file(alpha=4.0), tmp_path), tmp_path / "float"
    result = expanded(out, at)
    tensors = load_file(at)
    assert (result.modules, result.expanded) == (4, 4)
    assert result.bytes_out == at.stat().st_size
    assert tensors.keys() == load_file(out).keys()
    for key, tensor in tensors.items():
        if key.endswith(".alpha"):
            assert (float(tensor), tensor.dtype, tensor.shape) == (4.0, torch.float32, ())
        else:
            assert tensor.dtype == torch.float16
    meant = asking.deltas(out)
    for name, delta in asking.deltas(at).items():
        assert making.distance(meant[name], delta) < HALF


def test_the_header_loses_only_the_marks_that_int8_needs(tmp_path: Path) -> None:
    """The file still counts as lensd's output of that original."""
    original = {"sshs_model_hash": "0" * 64, "ss_network_dim": "8"}
    out, at = ultra(making.small_file(), tmp_path, original), tmp_path / "float"
    expanded(out, at)
    before, after = asking.metadata_of(out), asking.metadata_of(at)
    assert before.keys() - after.keys() == {"lensd.alpha"}
    assert after.items() <= before.items()
    assert after["lensd.original_sha256"]


def test_a_float8_file_is_expanded_without_any_loss(tmp_path: Path) -> None:
    """Every module gets float16 numbers that are equal, and keeps its alpha; load_file the same."""
    source, out, at = (tmp_path / name for name in ("a.safetensors", "float8", "float"))
    original = {"lora_adapter_metadata": "{}", "ss_network_alpha": "4.0"}
    save_file(making.small_file(alpha=4.0), source, original)
    numbers = asking.compress(source, out, mode="ultra", targets=("comfyui-bypass",))
    assert numbers["dtype_out"] == "F8_E4M3"
    assert numbers["encodings"] == {"int8": 0, "float8": 4, "float": 0, "untouched": 0}
    assert numbers["snr_db"] > 25
    assert numbers["delta_snr_db"] > 25
    result = expanded(out, at)
    assert (result.modules, result.expanded) == (4, 4)
    stored, loaded, written = load_file(out), lensd.load_file(out), load_file(at)
    assert stored.keys() == loaded.keys() == written.keys()
    for key, tensor in written.items():
        assert tensor.dtype == (torch.float32 if key.endswith(".alpha") else torch.float16)
        assert torch.equal(tensor.double(), stored[key].double())
        assert asking.bits(loaded[key]) == asking.bits(tensor)
    assert asking.metadata_of(out) == asking.metadata_of(at)


def test_float8_in_peft_naming_has_no_alphas_and_keeps_its_entry(tmp_path: Path) -> None:
    """The entry has the ranks of the output, before and after expanding; the strength stays."""
    source, out, at = (tmp_path / name for name in ("a.safetensors", "float8", "float"))
    fields: dict[str, Any] = {"transformer.r": 4, "transformer.lora_alpha": 2}
    ranks = {f"transformer_blocks.0.{n}": r for n, r in (("attn.to_k", 8), ("ff.net.2", 12))}
    patterns = {"rank_pattern": ranks, "alpha_pattern": {n: r / 2 for n, r in ranks.items()}}
    fields |= {f"transformer.{name}": p for name, p in patterns.items()}
    save_file(peft_file(), source, {"lora_adapter_metadata": json.dumps(fields)})
    numbers = asking.compress(source, out, targets=("diffusers",))
    assert numbers["encodings"]["float8"] == 3
    expanded(out, at)
    for path in (out, at):
        assert load_file(path).keys() == peft_file().keys()
        found = entry(path)
        named = {found["transformer.r"], *found["transformer.rank_pattern"].values()}
        assert named == set(asking.rank_of(path).values())
        assert found["transformer.lora_alpha"] == found["transformer.r"] / 2
    meant = asking.deltas(out)
    for name, delta in making.meaning(lensd.load_file(out)).items():
        assert making.distance(meant[name] / 2, delta) < HALF


def test_a_float8_file_is_compared_and_never_compressed_again(tmp_path: Path) -> None:
    """`compare` finds the error that was reported; a job skips the file as lensd's output."""
    source, out, again = (tmp_path / name for name in ("a.safetensors", "float8", "again"))
    save_file(making.small_file(), source)
    numbers = asking.compress(source, out, mode="ultra", targets=("comfyui-bypass",))
    found = compare(str(source), str(out))
    assert found.delta_error == pytest.approx(numbers["delta_error"], rel=1e-3)
    meant = asking.deltas(source)
    apart = sum(float((meant[n] - d).square().sum()) for n, d in asking.deltas(out).items())
    energy = sum(float(d.square().sum()) for d in meant.values())
    assert (apart / energy) ** 0.5 == pytest.approx(numbers["delta_error"], rel=1e-3)
    with pytest.raises(Skipped) as caught:
        asking.compress(out, again)
    assert caught.value.reason == "already_compressed"


def test_load_file_returns_the_tensors_that_expand_writes(tmp_path: Path) -> None:
    """They are equal bit for bit, in the naming of the file."""
    out, at = ultra(making.small_file(), tmp_path), tmp_path / "float"
    expanded(out, at)
    written, loaded = load_file(at), lensd.load_file(out)
    assert written.keys() == loaded.keys()
    assert all(asking.bits(written[k]) == asking.bits(t) for k, t in loaded.items())


def test_peft_files_lose_the_alphas_again_and_get_an_entry_for_mixed_ranks(tmp_path: Path) -> None:
    """The scale is 1 with and without the entry, which diffusers before 0.40 needs."""
    out, at = ultra(peft_file(), tmp_path), tmp_path / "float"
    assert any(key.endswith(".alpha") for key in load_file(out))
    expanded(out, at)
    assert load_file(at).keys() == peft_file().keys()
    ranks = set(asking.rank_of(at).values())
    assert len(ranks) > 1
    found = entry(at)
    named = {found["transformer.r"], *found["transformer.rank_pattern"].values()}
    assert named == ranks
    assert found["transformer.alpha_pattern"] == found["transformer.rank_pattern"]


def test_a_strength_in_the_header_is_restored_in_file_and_state_dict(tmp_path: Path) -> None:
    """The file has an entry with its ranks. A state dict has no header, so `up` is multiplied."""
    ranks = {f"transformer_blocks.0.{n}": r for n, r in (("attn.to_k", 8), ("ff.net.2", 12))}
    fields = {
        "transformer.r": 4,
        "transformer.lora_alpha": 2,
        "transformer.rank_pattern": ranks,
        "transformer.alpha_pattern": {n: r / 2 for n, r in ranks.items()},
    }
    metadata = {"lora_adapter_metadata": json.dumps(fields)}
    out, at = ultra(peft_file(), tmp_path, metadata), tmp_path / "float"
    assert "lora_adapter_metadata" not in asking.metadata_of(out)
    expanded(out, at)
    assert "lensd.adapter_metadata" not in asking.metadata_of(at)
    found = entry(at)
    assert found["transformer.lora_alpha"] == found["transformer.r"] / 2
    meant, loaded = asking.deltas(out), making.meaning(lensd.load_file(out))
    for name, delta in loaded.items():
        assert making.distance(meant[name] / 2, delta) < HALF
    original = lensd.load_file(tmp_path / "a.safetensors")
    for name, delta in making.meaning(original).items():
        assert making.distance(making.meaning(peft_file())[name] / 2, delta) < HALF


def test_load_file_returns_floats_as_they_are_stored(tmp_path: Path) -> None:
    """So it does for any dtype, and for tensors that are no pairs."""
    tensors = making.small_file(dtype=torch.bfloat16)
    tensors |= {"lora_unet_x.diff_b": torch.arange(5.0), "lora_unet_x.flag": torch.tensor([True])}
    path = tmp_path / "a.safetensors"
    save_file(tensors, path)
    loaded = lensd.load_file(str(path))
    assert loaded.keys() == tensors.keys()
    assert all(asking.bits(loaded[k]) == asking.bits(t) for k, t in tensors.items())
    assert {k: t.dtype for k, t in loaded.items()} == {k: t.dtype for k, t in tensors.items()}


def test_tensors_that_are_no_pairs_are_copied(tmp_path: Path) -> None:
    """They are in the file and in the state dict, bit for bit."""
    extra = {"lora_unet_x.diff_b": torch.arange(5.0)}
    out, at = ultra(making.small_file() | extra, tmp_path), tmp_path / "float"
    expanded(out, at)
    for found in (load_file(at), lensd.load_file(out)):
        assert asking.bits(found["lora_unet_x.diff_b"]) == asking.bits(extra["lora_unet_x.diff_b"])


def test_bfloat16_where_float16_would_overflow(tmp_path: Path) -> None:
    """Each module has its own dtype: the others stay float16."""
    tensors = making.small_file(dtype=torch.float32, alpha=1.0)
    tensors |= {k: t * 1e7 for k, t in tensors.items() if k.startswith("lora_unet_a.lora")}
    out, at = ultra(tensors, tmp_path), tmp_path / "float"
    expanded(out, at)
    found = load_file(at)
    assert found["lora_unet_a.lora_up.weight"].dtype == torch.bfloat16
    assert found["lora_unet_b.lora_up.weight"].dtype == torch.float16
    assert all(bool(t.isfinite().all()) for t in found.values())
    delta = asking.deltas(at)["lora_unet_a"]
    assert making.distance(asking.deltas(out)["lora_unet_a"], delta) < 5e-3


def test_expanding_a_float_file_is_a_usage_error(tmp_path: Path) -> None:
    """The message says that there is nothing to expand, and the temporary stays empty."""
    path, at = tmp_path / "a.safetensors", tmp_path / "float"
    save_file(making.small_file(), path)
    with pytest.raises(UsageError, match="nothing to expand"):
        expanded(path, at)
    assert at.stat().st_size == 0


def test_int8_without_lensds_marks_is_not_expanded(tmp_path: Path) -> None:
    """Without the marks it is unknown which alpha the floats had."""
    out, bare = ultra(making.small_file(), tmp_path), tmp_path / "bare.safetensors"
    save_file(load_file(out), bare)
    with pytest.raises(UsageError, match="marks"):
        expanded(bare, tmp_path / "float")
    with pytest.raises(UsageError, match="marks"):
        lensd.load_file(bare)


def test_load_file_skips_a_file_without_lora(tmp_path: Path) -> None:
    """The reason is no_lora, as in a job."""
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.zeros(3)}, path)
    with pytest.raises(Skipped) as caught:
        lensd.load_file(path)
    assert caught.value.reason == "no_lora"


def test_import_lensd_loads_nothing() -> None:
    """load_file is defined, but neither torch nor any module of lensd's is loaded."""
    script = "import sys, lensd; lensd.load_file; print(*sys.modules)"
    done = subprocess.check_output([sys.executable, "-c", script], text=True)
    loaded = set(done.split())
    assert "torch" not in loaded
    assert not {name for name in loaded if name.startswith("lensd.")}
