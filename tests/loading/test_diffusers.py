"""diffusers and peft themselves: what they apply of lensd's outputs against what was reported.

Every file has modules of several ranks and, where its naming can say so, a scale that is not 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import lensd
from lensd.engine import expand
from lensd.lora import adapter
from tests.engine import asking
from tests.loading import files, pipelines
from tests.loading.files import Made

AGREE = 1e-3
ATTENTION = re.compile(r"(to_[qkv]|to_out\.0|[qkv]_proj|out_proj)$")


def adapted(name: str, *, convolutions: bool = False) -> dict[str, files.Layer]:
    return files.adapted(pipelines.layers(pipelines.PIPELINES[name]()), convolutions=convolutions)


def sd15_kohya(path: Path) -> Made:
    """With 3x3 convolutions, whose rank is their own."""
    layers = adapted("sd15", convolutions=True)
    return files.write(
        path,
        layers,
        lambda f, place: files.kohya(f, files.kohya_name(place), files.ALPHA),
        alpha=files.ALPHA,
    )


def sdxl_kohya(path: Path) -> Made:
    """The original UNet's names, both text encoders."""
    return files.write(
        path,
        adapted("sdxl"),
        lambda f, place: files.kohya(f, files.sgm_name(place), files.ALPHA),
        alpha=files.ALPHA,
    )


def _peft(name: str, path: Path) -> Made:
    return files.write(path, adapted(name), lambda f, place: files.peft(f, files.peft_name(place)))


def _peft_with_entry(name: str, path: Path) -> Made:
    """alpha_pattern and rank_pattern in the header; 0.4 is the strength they make."""
    layers = adapted(name)
    return files.write(
        path,
        layers,
        lambda f, place: files.peft(f, files.peft_name(place)),
        scale=0.4,
        metadata=files.adapter_entry(layers, 0.4),
    )


def sd15_old_diffusers(path: Path) -> Made:
    """Attention processors alone: the first format had nothing else."""
    layers = {k: v for k, v in adapted("sd15").items() if ATTENTION.search(k)}
    return files.write(path, layers, files.old_diffusers)


def flux_kohya(path: Path) -> Made:
    """Query, key and value in one module, which diffusers takes apart."""
    tensors: dict[str, torch.Tensor] = {}
    deltas: dict[str, torch.Tensor] = {}
    for index, (name, (layer, places)) in enumerate(files.flux_kohya_modules().items()):
        rank = files.mixed_rank(index, layer)
        f = files.factors(layer, rank, index, torch.float16)
        tensors |= files.kohya(f, name, 6.0)
        parts = files.delta(f, 6.0 / rank).chunk(len(places))
        deltas |= dict(zip(places, parts, strict=True))
    save_file(tensors, path, {"format": "pt"})
    return Made(path, deltas)


CASES: dict[str, tuple[str, Callable[[Path], Made]]] = {
    "sd15-kohya": ("sd15", sd15_kohya),
    "sd15-peft": ("sd15", lambda p: _peft("sd15", p)),
    "sd15-peft-entry": ("sd15", lambda p: _peft_with_entry("sd15", p)),
    "sd15-old-diffusers": ("sd15", sd15_old_diffusers),
    "sdxl-kohya": ("sdxl", sdxl_kohya),
    "sdxl-peft": ("sdxl", lambda p: _peft("sdxl", p)),
    "sdxl-peft-entry": ("sdxl", lambda p: _peft_with_entry("sdxl", p)),
    "flux-kohya": ("flux", flux_kohya),
    "flux-peft": ("flux", lambda p: _peft("flux", p)),
    "flux-peft-entry": ("flux", lambda p: _peft_with_entry("flux", p)),
}
INT8 = ("sd15-kohya", "sdxl-kohya", "flux-kohya", "flux-peft", "flux-peft-entry")
# diffusers converts these with products, which torch does not have for float8; int8 is exact there.
FLOAT8 = sorted(CASES.keys() - {"flux-kohya"})


def make(case: str, folder: Path) -> tuple[str, Made]:
    name, write = CASES[case]
    return name, write(folder / "a.safetensors")


@pytest.mark.parametrize("case", CASES)
def test_the_files_of_these_tests_mean_in_diffusers_what_they_should(
    case: str, tmp_path: Path
) -> None:
    """Else what follows would prove nothing."""
    name, made = make(case, tmp_path)
    assert files.relative(pipelines.applied(name, made.path), made.deltas) < AGREE


@pytest.mark.parametrize("case", CASES)
def test_rank_outputs_apply_with_the_reported_error(case: str, tmp_path: Path) -> None:
    """As a file and through load_file; no module is missing, and the ranks do differ."""
    name, made = make(case, tmp_path)
    out = tmp_path / "out.safetensors"
    numbers = asking.compress(made.path, out, mode="rank")
    assert numbers["rank_out"]["min"] < numbers["rank_out"]["max"]
    assert numbers["delta_error"] > 2 * AGREE
    for lora in (out, lensd.load_file(out)):
        found = files.relative(pipelines.applied(name, lora), made.deltas)
        assert found == pytest.approx(numbers["delta_error"], abs=AGREE)


@pytest.mark.parametrize("case", INT8)
def test_int8_applies_with_the_reported_error_once_it_is_float_again(
    case: str, tmp_path: Path
) -> None:
    """By `lensd expand` and by load_file."""
    name, made = make(case, tmp_path)
    out, expanded = tmp_path / "out.safetensors", tmp_path / "float.safetensors"
    numbers = asking.compress(made.path, out, mode="ultra")
    assert numbers["encodings"]["int8"] == numbers["modules"]
    expanded.touch()
    expand.expand(str(out), str(expanded), (expanded.stat().st_dev, expanded.stat().st_ino))
    for lora in (expanded, lensd.load_file(out)):
        found = files.relative(pipelines.applied(name, lora), made.deltas)
        assert found == pytest.approx(numbers["delta_error"], abs=AGREE)


@pytest.mark.parametrize("case", FLOAT8)
@pytest.mark.parametrize("mode", ["int8", "ultra"])
def test_float8_applies_with_the_reported_error(case: str, mode: str, tmp_path: Path) -> None:
    """As a file, through load_file and expanded, at every rank; expanding loses nothing."""
    name, made = make(case, tmp_path)
    out, expanded = tmp_path / "out.safetensors", tmp_path / "float.safetensors"
    numbers = asking.compress(made.path, out, mode=mode, targets=("diffusers",))
    assert numbers["dtype_out"] == "F8_E4M3"
    assert numbers["encodings"]["int8"] == 0
    assert numbers["encodings"]["float8"] > 0.8 * numbers["modules"]
    assert numbers["forced_by"] == ["diffusers"]
    expanded.touch()
    expand.expand(str(out), str(expanded), (expanded.stat().st_dev, expanded.stat().st_ino))
    assert torch.float8_e4m3fn not in {t.dtype for t in load_file(expanded).values()}
    for lora in (out, expanded, lensd.load_file(out)):
        found = files.relative(pipelines.applied(name, lora), made.deltas)
        assert found == pytest.approx(numbers["delta_error"], abs=AGREE)


@pytest.mark.parametrize(("mode", "has_entry"), [("int8", False), ("ultra", True)])
def test_flux_of_small_weights_gets_an_alpha(mode: str, tmp_path: Path, *, has_entry: bool) -> None:
    """diffusers applies it. Without one, the weights lie below what float8 stores well.

    The float form has none, since InvokeAI refuses it in this naming. An entry whose strength is 1
    is left out, as diffusers permits none beside alphas.
    """

    def spell(f: files.Factors, place: str) -> dict[str, torch.Tensor]:
        return files.peft(files.Factors(f.up / 8, f.down / 8), files.peft_name(place))

    path, out, expanded = (tmp_path / f"{name}.safetensors" for name in ("a", "out", "float"))
    layers = adapted("flux")
    entry = files.adapter_entry(layers, 1.0) if has_entry else None
    made = files.write(path, layers, spell, scale=2.0**-6, metadata=entry)
    numbers = asking.compress(path, out, mode=mode, targets=("diffusers",))
    assert numbers["encodings"]["float8"] > 0.9 * numbers["modules"]
    alphas = {float(t) for key, t in load_file(out).items() if key.endswith(".alpha")}
    assert len(alphas) == 1
    assert adapter.KEY not in asking.metadata_of(out)
    expanded.touch()
    expand.expand(str(out), str(expanded), (expanded.stat().st_dev, expanded.stat().st_ino))
    assert not [key for key in load_file(expanded) if key.endswith(".alpha")]
    assert lensd.load_file(out).keys() == load_file(expanded).keys()
    for lora in (out, expanded, lensd.load_file(out)):
        found = files.relative(pipelines.applied("flux", lora), made.deltas)
        assert found == pytest.approx(numbers["delta_error"], abs=AGREE)


def test_int8_as_it_is_makes_diffusers_refuse(tmp_path: Path) -> None:
    """Which is why expand and load_file exist: it does not load something wrong."""
    name, made = make("sd15-kohya", tmp_path)
    out = tmp_path / "out.safetensors"
    asking.compress(made.path, out, mode="ultra")
    assert {t.dtype for t in load_file(out).values()} == {torch.int8, torch.float32}
    with pytest.raises(RuntimeError, match="gradients"):
        pipelines.applied(name, out)
