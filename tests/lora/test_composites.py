"""lensd.lora.composites: LoHa, LoKr and Tucker, by the formulas of the programs that read them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lensd.lora import composites
from lensd.lora.composite_layout import Composite, find_composites
from lensd.lora.layout import read_layout
from lensd.lora.parameters import Parameters
from lensd.lora.tensor_spec import TensorSpec
from tests.lora.making import Tensors

NAME = "lora_unet_down_blocks_0_attentions_0_proj_in"
SAFE = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64"}


def normal(*shape: int, seed: int = 0, size: float = 0.1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * size


# Each restates the code of ComfyUI's weight_adapter/{loha,lokr,lora}.py: casts to float32 there.


def comfyui_loha(t: Tensors, alpha: float | None) -> Tensor:
    w1a, w1b, w2a, w2b = (t[f"hada_w{at}_{side}"] for at in (1, 2) for side in "ab")
    scale = alpha / w1b.shape[0] if alpha is not None else 1.0
    if "hada_t1" in t:
        first = torch.einsum("i j k l, j r, i p -> p r k l", t["hada_t1"], w1b, w1a)
        second = torch.einsum("i j k l, j r, i p -> p r k l", t["hada_t2"], w2b, w2a)
    else:
        first, second = torch.mm(w1a, w1b), torch.mm(w2a, w2b)
    return scale * (first * second)


def comfyui_lokr(t: Tensors, alpha: float | None) -> Tensor:
    dim = None
    sides = []
    for at in (1, 2):
        if (whole := t.get(f"lokr_w{at}")) is not None:
            sides.append(whole)
            continue
        left, right = t[f"lokr_w{at}_a"], t[f"lokr_w{at}_b"]
        dim = right.shape[0]
        if "lokr_t2" in t and at == 2:
            sides.append(torch.einsum("i j k l, j r, i p -> p r k l", t["lokr_t2"], right, left))
        else:
            sides.append(torch.mm(left, right))
    first, second = sides
    if second.dim() == 4:
        first = first.unsqueeze(2).unsqueeze(2)
    scale = alpha / dim if alpha is not None and dim is not None else 1.0
    return scale * torch.kron(first, second.contiguous())


def comfyui_tucker(t: Tensors, alpha: float | None) -> Tensor:
    up, down, mid = (t[f"lora_{part}.weight"] for part in ("up", "down", "mid"))
    scale = alpha / down.shape[0] if alpha is not None else 1.0
    shape = [down.shape[1], down.shape[0], mid.shape[2], mid.shape[3]]
    columns = torch.mm(
        down.transpose(0, 1).flatten(start_dim=1), mid.transpose(0, 1).flatten(start_dim=1)
    )
    combined = columns.reshape(shape).transpose(0, 1)
    return scale * torch.mm(up.flatten(start_dim=1), combined.flatten(start_dim=1))


def a1111_tucker(t: Tensors, alpha: float | None) -> Tensor:
    """rebuild_cp_decomposition, which InvokeAI writes as the same einsum."""
    up, down, mid = (t[f"lora_{part}.weight"] for part in ("up", "down", "mid"))
    scale = alpha / down.shape[0] if alpha is not None else 1.0
    up, down = up.reshape(up.size(0), -1), down.reshape(down.size(0), -1)
    product = torch.einsum("n m k l, i n, m j -> i j k l", mid, up, down)
    return scale * product.flatten(1)


def loha(core: tuple[int, ...] = ()) -> Tensors:
    shapes = [(24, 4), (4, 30)] if not core else [(4, 24), (4, 30)]
    tensors = {
        f"hada_w{at}_{side}": normal(*shape, seed=10 * at + len(side))
        for at in (1, 2)
        for side, shape in zip("ab", shapes, strict=True)
    }
    if core:
        tensors |= {f"hada_t{at}": normal(4, 4, *core, seed=at) for at in (1, 2)}
    return tensors


def tucker(rank: int = 12, out: int = 40, width: int = 32, decay: float = 0.4) -> Tensors:
    sizes = torch.exp(-decay * torch.arange(rank))
    core = normal(rank, rank, 3, 3) * sizes[:, None, None, None] * sizes[None, :, None, None]
    return {
        "lora_up.weight": normal(out, rank, 1, 1, seed=1),
        "lora_mid.weight": core,
        "lora_down.weight": normal(rank, width, 1, 1, seed=2),
    }


Formula = Callable[[Tensors, float | None], Tensor]
MODULES: dict[str, tuple[Tensors, Formula]] = {
    "LoHa": (loha(), comfyui_loha),
    "LoHa with cores": (loha((3, 3)), comfyui_loha),
    "LoKr": ({"lokr_w1": normal(4, 6), "lokr_w2": normal(8, 5, seed=1)}, comfyui_lokr),
    "LoKr, one side factored": (
        {
            "lokr_w1": normal(4, 6),
            "lokr_w2_a": normal(8, 2, seed=1),
            "lokr_w2_b": normal(2, 5, seed=2),
        },
        comfyui_lokr,
    ),
    "LoKr, both sides factored": (
        {
            "lokr_w1_a": normal(4, 3),
            "lokr_w1_b": normal(3, 6, seed=3),
            "lokr_w2_a": normal(8, 2, seed=1),
            "lokr_w2_b": normal(2, 5, seed=2),
        },
        comfyui_lokr,
    ),
    "LoKr of a convolution": (
        {"lokr_w1": normal(4, 6), "lokr_w2": normal(8, 5, 3, 3, seed=1)},
        comfyui_lokr,
    ),
    "LoKr with a core": (
        {
            "lokr_w1": normal(4, 6),
            "lokr_w2_a": normal(2, 8, seed=1),
            "lokr_w2_b": normal(2, 5, seed=2),
            "lokr_t2": normal(2, 2, 3, 3, seed=3),
        },
        comfyui_lokr,
    ),
    "Tucker": (tucker(), comfyui_tucker),
}


def found(parts: Tensors, *, alpha: bool = True) -> Composite:
    specs = {
        f"{NAME}.{part}": TensorSpec(SAFE[t.dtype], tuple(t.shape)) for part, t in parts.items()
    }
    if alpha:
        specs[f"{NAME}.alpha"] = TensorSpec("F32", ())
    (module,) = find_composites(specs)
    return module


def by_part(module: Composite, output: composites.CompositeOutput) -> Tensors:
    return {part: output.tensors[key] for part, key in module.parts}


@pytest.mark.parametrize("alpha", [3.0, None])
@pytest.mark.parametrize("kind", MODULES)
def test_the_delta_weight_is_the_one_that_programs_compute(kind: str, alpha: float | None) -> None:
    parts, formula = MODULES[kind]
    module = found(parts, alpha=alpha is not None)
    delta = formula({k: t.double() for k, t in parts.items()}, alpha)
    reading = composites.read(module, parts, alpha)
    assert reading.energy == pytest.approx(float(delta.square().sum()), rel=1e-12)
    assert module.out_features * module.in_features == delta.numel()


@pytest.mark.parametrize("float32", ["auto", "float16", "bfloat16"])
@pytest.mark.parametrize("kind", MODULES)
def test_the_16_bit_output_has_the_reported_error(kind: str, float32: str) -> None:
    """As a program computes it from the output's tensors, in float64."""
    parts, formula = MODULES[kind]
    module = found(parts)
    reading = composites.read(module, parts, 3.0)
    plan = composites.plan(reading, Parameters(mode="int8", float32=float32))
    assert plan.encoding == ("BF16" if float32 == "bfloat16" else "F16")
    output = composites.reduce(plan, parts)
    after = by_part(module, output)
    assert {t.dtype for t in after.values()} == {
        torch.float16 if plan.encoding == "F16" else torch.bfloat16
    }
    old, new = (formula({k: t.double() for k, t in p.items()}, 3.0) for p in (parts, after))
    error = float((old - new).square().sum())
    assert output.squared_error == pytest.approx(error, rel=1e-6)
    assert output.squared_error == output.squared_noise
    assert (error / reading.energy) ** 0.5 < (1e-3 if plan.encoding == "F16" else 1e-2)


@pytest.mark.parametrize("dtype", SAFE)
@pytest.mark.parametrize("alpha", [5.0, -2.0, None])
def test_the_rank_of_tucker_is_reduced_by_its_energy(
    alpha: float | None, dtype: torch.dtype
) -> None:
    """Two programs compute the same from the output, with the reported error; alpha stays."""
    parts = {k: t.to(dtype) for k, t in tucker().items()}
    module = found(parts, alpha=alpha is not None)
    reading = composites.read(module, parts, alpha)
    plan = composites.plan(reading, Parameters(energy=0.99))
    assert 1 < plan.rank < module.rank
    assert reading.kept[plan.rank - 2] < 0.99 <= plan.retained
    output = composites.reduce(plan, parts)
    after = by_part(module, output)
    assert after["lora_mid.weight"].shape == (plan.rank, plan.rank, 3, 3)
    for formula in (comfyui_tucker, a1111_tucker):
        old, new = (formula({k: t.double() for k, t in p.items()}, alpha) for p in (parts, after))
        error = float((old - new).square().sum())
        assert output.squared_error == pytest.approx(error, rel=1e-6)
        assert (error / float(old.square().sum())) ** 0.5 < 0.101
    bound = ((1 - plan.retained) * plan.energy) ** 0.5 + output.squared_noise**0.5
    assert output.squared_error**0.5 <= bound * (1 + 1e-6)


def test_modes_and_limits_of_the_rank() -> None:
    parts = tucker()
    reading = composites.read(found(parts), parts, 5.0)
    assert composites.plan(reading, Parameters(mode="int8")).rank == 12
    assert composites.plan(reading, Parameters(max_rank=2)).rank == 2
    assert composites.plan(reading, Parameters(energy=1.0)).rank == 12
    assert composites.plan(reading, Parameters(energy=1.0, float32="keep")).same


def test_a_rank_beyond_a_side_is_not_reduced() -> None:
    parts = tucker(width=4)
    module = found(parts)
    assert not module.reducible
    assert composites.plan(composites.read(module, parts, 1.0), Parameters()).rank == 12


@pytest.mark.parametrize("size", [1e-6, 1e4])
def test_what_float16_cannot_hold_becomes_bfloat16(size: float) -> None:
    """Some programs multiply in the file's precision, so the products have to fit too."""
    parts = {k: t * size for k, t in loha().items()}
    plan = composites.plan(composites.read(found(parts), parts, 1.0), Parameters())
    assert plan.encoding == "BF16"


def test_what_would_lose_too_much_stays_as_it_is() -> None:
    tiny = {k: t * 1e-7 for k, t in loha().items()}
    module = found(tiny)
    assert composites.plan(composites.read(module, tiny, 1.0), Parameters(float32="float16")).same
    for alpha in (0.0, float("nan")):
        assert composites.plan(composites.read(module, tiny, alpha), Parameters()).same
    broken = loha() | {"hada_w1_a": torch.full((24, 4), float("inf"))}
    assert composites.plan(composites.read(module, broken, 1.0), Parameters()).same


def test_an_untrained_module_becomes_16_bits() -> None:
    parts = loha() | {"hada_w2_a": torch.zeros(24, 4)}
    plan = composites.plan(composites.read(found(parts), parts, 1.0), Parameters())
    assert (plan.encoding, plan.energy) == ("F16", 0.0)
    assert composites.reduce(plan, parts).squared_error == 0


@pytest.mark.parametrize(
    "change",
    [
        {"dora_scale": (24, 1)},
        {"scalar": ()},
        {"bias.x": (24,)},
        {"hada_w1_a": (24, 5)},
        {"hada_w1_b": (4, 30, 1, 1)},
        {"hada_w2_a": (25, 4)},
        {"hada_t1": (4, 4, 3, 3)},
        {"alpha": (2,)},
        {"hada_w1_b": (4, 0)},
        {"lora_mid.weight": (4, 4, 3, 3)},
    ],
    ids=str,
)
def test_a_module_with_other_tensors_or_shapes_stays(change: dict[str, tuple[int, ...]]) -> None:
    parts = {k: tuple(t.shape) for k, t in loha().items()} | change
    specs = {f"{NAME}.{part}": TensorSpec("F32", shape) for part, shape in parts.items()}
    assert find_composites(specs) == ()


def test_16_bit_modules_and_mixed_ones_stay() -> None:
    for dtypes in (["F16"] * 4, ["BF16"] * 4, ["F32", "F16", "F32", "F32"], ["I8"] * 4):
        shapes = [tuple(t.shape) for t in loha().values()]
        specs = {
            f"{NAME}.{part}": TensorSpec(dtype, shape)
            for part, dtype, shape in zip(loha(), dtypes, shapes, strict=True)
        }
        assert find_composites(specs) == ()


def test_a_delta_weight_that_costs_too_much_stays() -> None:
    """A small file can have a delta weight of any size."""
    shapes = {"a": (1_000_000, 1), "b": (1, 1_000_000)}
    specs = {
        f"{NAME}.hada_w{at}_{side}": TensorSpec("F32", shapes[side])
        for at in (1, 2)
        for side in "ab"
    }
    assert find_composites(specs) == ()


def test_a_file_of_loha_alone_has_a_family() -> None:
    name = NAME.replace("proj_in", "transformer_blocks_0_attn2_to_k")
    shapes = {"a": (320, 4), "b": (4, 768)}
    specs = {
        f"{name}.hada_w{at}_{side}": TensorSpec("F32", shapes[side])
        for at in (1, 2)
        for side in "ab"
    }
    layout = read_layout(specs)
    assert (layout.family, layout.naming, layout.dtype) == ("sd15", "lycoris", "F32")
    assert layout.modules == ()
    assert set(layout.untouched) == set(specs)


@pytest.mark.slow
def test_peft_computes_the_same_delta_weights() -> None:
    """Its own functions for LoHa and LoKr, with which diffusers loads LoKr."""
    loha_layer = pytest.importorskip("peft.tuners.loha.layer")
    lokr_layer = pytest.importorskip("peft.tuners.lokr.layer")
    for kind, (parts, _) in MODULES.items():
        t = {k: v.double() for k, v in parts.items()}
        scale = torch.tensor(1.0).double()
        if kind == "LoHa":
            sides = (t[f"hada_w{at}_{side}"] for at in (1, 2) for side in "ab")
            delta = loha_layer.make_weight(*sides, scale)
        elif kind == "LoHa with cores":
            sides = (t[f"hada_{part}"] for part in ("t1", "w1_a", "w1_b", "t2", "w2_a", "w2_b"))
            delta = loha_layer.make_weight_cp(*sides, scale)
        elif kind.startswith("LoKr"):
            first = t["lokr_w1"] if "lokr_w1" in t else t["lokr_w1_a"] @ t["lokr_w1_b"]
            second = t.get("lokr_w2")
            if "lokr_t2" in t:
                second = lokr_layer.make_weight_cp(t["lokr_t2"], t["lokr_w2_a"], t["lokr_w2_b"])
            elif second is None:
                second = t["lokr_w2_a"] @ t["lokr_w2_b"]
            delta = lokr_layer.make_kron(first, second)
        else:
            continue
        energy = composites.read(found(parts, alpha=False), parts, None).energy
        assert energy == pytest.approx(float(delta.square().sum()), rel=1e-12), kind
