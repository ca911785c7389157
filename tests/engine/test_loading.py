"""Check the portability table with files of real shapes, for every cell that can be computed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lensd.lora.portability import READS, cell
from tests.engine import asking
from tests.engine.loaders import EXACT, LOADERS, comfyui, unmerged
from tests.lora import making
from tests.lora.making import PAIRS, Made
from tests.support.architectures import Module, sd15
from tests.support.realistic import write_lora

# One module of each shape in a block of SD1.5's UNet and in a layer of its text encoder.
PATHS = (
    "text_model.encoder.layers.5.self_attn.q_proj", "text_model.encoder.layers.5.mlp.fc1",
    *(f"up_blocks.3.attentions.0.{end}" for end in (
        "proj_in", "transformer_blocks.0.attn1.to_q", "transformer_blocks.0.attn2.to_k",
        "transformer_blocks.0.ff.net.0.proj", "transformer_blocks.0.ff.net.2",
    )),
)  # fmt: skip
SHAPES = [module for module in sd15() if module.path in PATHS]
CONVOLUTION = Module("unet", "down_blocks.0.resnets.0.conv1", 320, 320, (3, 3))


def exactly(dialect: str, program: str) -> bool:
    """Whether a program loads int8 exactly."""
    return cell(dialect, program, "int8").kind == "exact"


# dialect -> pattern for names of modules in it, for each way to spell the factors; none of these
# dialects needs a family
NAMES = {
    "kohya": "lora_unet_{}",
    "peft transformer: flux": "transformer.transformer_blocks.{}.attn.to_q",
    "peft diffusion_model: other": "diffusion_model.{}",
    "peft lora_unet": "lora_unet_{}",
    "diffusers unet processor": "unet.{}.processor.to_q",
}
NOT_MERGED = ("comfyui-bypass", "a1111-functional", "invokeai-sidecar")
EXACTLY = [(p, d) for d in NAMES for p in READS[d] if exactly(d, p)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("loading")


@pytest.fixture(scope="module")
def real(folder: Path) -> Path:
    """A kohya file of real shapes with a 3x3 convolution."""
    path = folder / "kohya.safetensors"
    modules = [*SHAPES, CONVOLUTION]
    write_lora(path, rank=48, alpha=24, modules=modules, effective_rank=14)
    return path


@pytest.fixture(scope="module")
def outputs(folder: Path, real: Path) -> dict[tuple[str, str], Path]:
    """(dialect, mode) -> the output of the same factors, for every dialect in which int8 loads."""
    found = {}
    for dialect in NAMES:
        source = real if dialect == "kohya" else renamed(real, dialect)
        for mode in asking.MODES:
            found[dialect, mode] = folder / f"{dialect} {mode}"
            targets = tuple(p for p in READS[dialect] if exactly(dialect, p))
            asking.compress(source, found[dialect, mode], mode=mode, targets=targets)
    return found


def renamed(source: Path, dialect: str) -> Path:
    """Write the source's factors with the names of a dialect, without alphas."""
    tensors = load_file(source)
    found: making.Tensors = {}
    names = [k.removesuffix(".lora_down.weight") for k in tensors if k.endswith("_down.weight")]
    for at, name in enumerate(sorted(names)):
        pair = (tensors[f"{name}.lora_{end}.weight"] for end in ("up", "down"))
        found |= spelled(dialect, at, *pair)
    path = source.with_name(f"{dialect}.safetensors")
    save_file(found, path)
    return path


def spelled(dialect: str, number: int, up: Tensor, down: Tensor) -> making.Tensors:
    """One module in a dialect."""
    ends = list(making.PAIRS.items())[
        ("kohya", "peft", "diffusers").index(dialect.replace(":", " ").split(maxsplit=1)[0])
    ]
    name = NAMES[dialect].format(number)
    return {name + ends[0]: down, name + ends[1]: up}


def modules(path: Path) -> Iterator[tuple[str, Tensor, Tensor, float | None]]:
    """Yield name, up, down and alpha of each module."""
    tensors = load_file(path)
    for key, down in tensors.items():
        for suffix, other in PAIRS.items():
            if key.endswith(suffix):
                name = key.removesuffix(suffix)
                alpha = tensors.get(f"{name}.alpha")
                yield name, tensors[name + other], down, None if alpha is None else alpha.item()


@cache
def meaning(path: Path) -> dict[str, Tensor]:
    """What an output's modules mean, in float64; several tests compare with the same one."""
    return making.meaning(load_file(path))


def test_the_dialects_here_are_those_of_the_table() -> None:
    """So are the programs."""
    assert set(NAMES) <= set(READS)
    assert {p for p, _ in EXACTLY} == set(LOADERS)


@pytest.mark.parametrize("mode", asking.MODES)
@pytest.mark.parametrize(("program", "dialect"), EXACTLY)
def test_merging_loaders_compute_the_delta_weights_of_the_file(
    outputs: dict[tuple[str, str], Path], program: str, dialect: str, mode: str
) -> None:
    """In each module they are finite and differ from float64 only by the precision's rounding."""
    path, loader = outputs[dialect, mode], LOADERS[program]
    meant = meaning(path)
    for name, up, down, alpha in modules(path):
        assert up.dtype == down.dtype == (torch.float16 if mode == "rank" else torch.int8)
        for dtype in loader.precisions:
            if dtype == torch.float16 and up.shape[0] * down[0].numel() > 2**20:
                continue  # slow on CPUs, which emulate float16; smaller modules test the same
            found = loader.merge(up, down, alpha, dtype)
            assert bool(found.isfinite().all())
            assert making.distance(meant[name], found.double()) <= EXACT[dtype]


@pytest.mark.parametrize("dialect", NAMES)
@pytest.mark.parametrize("program", NOT_MERGED)
def test_unmerged_float16_overflows_with_int8(
    outputs: dict[tuple[str, str], Path], dialect: str, program: str
) -> None:
    """up(down(x)) overflows with int8 and not with floats, so these targets force floats."""
    random = torch.Generator().manual_seed(0)

    def non_finite(mode: str) -> float:
        shares = []
        for _, up, down, _ in modules(outputs[dialect, mode]):
            x = torch.randn(64, down[0].numel(), generator=random)
            shares.append(float((~unmerged(up, down, x).isfinite()).float().mean()))
        return max(shares)

    assert non_finite("rank") == 0.0
    assert non_finite("ultra") > 0.2
    assert not exactly(dialect, program)


@pytest.fixture(scope="module")
def in_float8(folder: Path, real: Path) -> Path:
    """The output for a target that does not merge."""
    out = folder / "float8"
    numbers = asking.compress(real, out, targets=("comfyui-bypass",))
    assert numbers["encodings"]["float8"] == numbers["modules"]
    return out


def test_unmerged_float16_computes_float8(in_float8: Path) -> None:
    """up(down(x)) * alpha / rank, in each module: finite, and right within two roundings."""
    random = torch.Generator().manual_seed(0)
    meant = meaning(in_float8)
    for name, up, down, alpha in modules(in_float8):
        assert up.dtype == down.dtype == torch.float8_e4m3fn
        x = torch.randn(64, down[0].numel(), generator=random).half()
        found = unmerged(up, down, x) * (1.0 if alpha is None else alpha / down.shape[0])
        assert (
            making.distance(x.double() @ meant[name].T, found.double()) <= 2 * EXACT[torch.float16]
        )


@pytest.mark.parametrize("program", LOADERS)
def test_merging_loaders_compute_float8(in_float8: Path, program: str) -> None:
    """They cast the factors first, as they do with int8."""
    meant, loader = meaning(in_float8), LOADERS[program]
    for name, up, down, alpha in modules(in_float8):
        if up.shape[0] * down[0].numel() > 2**20:
            continue  # slow on CPUs, which emulate float16; smaller modules test the same
        for dtype in loader.precisions:
            found = loader.merge(up, down, alpha, dtype)
            assert making.distance(meant[name], found.double()) <= EXACT[dtype]


@pytest.mark.parametrize("program", ["a1111", "a1111-functional"])
def test_a_program_that_ignores_the_alpha_loses_the_scale(
    outputs: dict[tuple[str, str], Path], program: str
) -> None:
    """A1111 reads peft's names with scale 1, so int8 would be thousands of times too strong."""
    path = outputs["peft lora_unet", "ultra"]
    meant = meaning(path)
    for name, up, down, alpha in modules(path):
        assert alpha is not None
        dropped = comfyui(up, down, None, torch.float32)
        assert making.distance(meant[name], dropped.double()) > 100
    assert not exactly("peft lora_unet", program)


def test_int8_parameters_are_refused_by_torch(outputs: dict[tuple[str, str], Path]) -> None:
    """diffusers assigns tensors as parameters that require a gradient, unless it converts them."""
    _, up, _, _ = next(modules(outputs["peft transformer: flux", "ultra"]))
    with pytest.raises(RuntimeError, match="floating point"):
        torch.nn.Parameter(up)
    converted = [dialect for dialect in READS if exactly(dialect, "diffusers")]
    assert converted == ["kohya: flux and others", "peft diffusion_model: qwenimage, zimage"]


@pytest.mark.parametrize("program", NOT_MERGED)
def test_a_target_that_does_not_merge_gets_float8(tmp_path: Path, real: Path, program: str) -> None:
    """The whole file, and up(down(x)) is finite."""
    out = tmp_path / "out"
    numbers = asking.compress(real, out, targets=("comfyui", program))
    assert numbers["forced_by"] == [program]
    assert numbers["encodings"]["float8"] == numbers["modules"]
    for _, up, down, _ in modules(out):
        assert up.dtype == torch.float8_e4m3fn
        assert bool(unmerged(up, down, torch.randn(8, down[0].numel())).isfinite().all())


def test_the_worst_int8_products_stay_finite_in_float16(tmp_path: Path) -> None:
    """Constant factors of rank 128: 127 * 127 * 128 is 31 times the largest float16."""
    tensors = making.kohya(
        "lora_unet_x", Made(torch.full((64, 128), 0.5).half(), torch.ones(128, 64).half(), 1.0)
    )
    up = torch.randn(64, 128, generator=torch.Generator().manual_seed(0)).half()
    tensors |= making.kohya("lora_unet_y", Made(up, up.T.contiguous(), 1.0))
    source, out = tmp_path / "a.safetensors", tmp_path / "out"
    save_file(tensors, source)
    asking.compress(source, out, mode="int8")
    found = load_file(out)
    for name, meant in making.meaning(found).items():
        up, down = (found[f"{name}.lora_{f}.weight"] for f in ("up", "down"))
        merged = comfyui(up, down, found[f"{name}.alpha"].item(), torch.float16)
        assert bool(merged.isfinite().all())
        assert making.distance(meant, merged.double()) <= 5e-4
        assert making.distance(making.meaning(tensors)[name], meant) < 0.05
