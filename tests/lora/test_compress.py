"""lensd.lora.compress: the delta weights of float outputs, and the dtypes that they get."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lensd.lora import compress
from lensd.lora.int8 import Factors
from lensd.lora.parameters import Parameters
from lensd.lora.reading import read_module
from tests.lora import making
from tests.lora.making import Made
from tests.support.suites import examples

RANK = Parameters(mode="rank")
# Relative rounding error of a delta weight whose factors are stored in these formats.
ROUNDING = {"F16": 2e-3, "BF16": 1.6e-2, "F32": 1e-6}


def made(kind: str = "decaying", rank: int = 8, alpha: float | None = 4.0, seed: int = 0) -> Made:
    up, down = making.factors(kind, 24, 20, rank, seed)
    return Made(up.half(), down.half(), alpha)


@st.composite
def two_modules(draw: st.DrawFn) -> making.Tensors:
    """Draw files whose alphas are equal, different, 0, negative or absent."""
    first, second = draw(making.modules(12)), draw(making.modules(12))
    first = first._replace(down=first.down[: first.rank])
    return making.kohya("lora_unet_a", first) | making.kohya("lora_unet_b", second)


@pytest.mark.lengthy
@examples(100)
@given(two_modules(), st.sampled_from([0.9, 0.99, 1.0]), st.sampled_from(["keep", "auto"]))
def test_a_float_output_is_the_best_approximation_under_one_alpha(
    tensors: making.Tensors, energy: float, float32: str
) -> None:
    """Each delta weight differs by the tail of its spectrum and rounding; all alphas are equal."""
    parameters = Parameters(mode="rank", energy=energy, float32=float32)
    result = making.compressed(tensors, parameters)
    assert set(result) == set(tensors)
    alphas = [t for key, t in result.items() if key.endswith(".alpha")]
    assert all(a.dtype == torch.float32 and a.shape == () for a in alphas)
    assert len({float(a) for a in alphas}) <= 1
    before, after = making.meaning(tensors), making.meaning(result)
    for m in making.plan_of(tensors, parameters).modules:
        name, values = m.module.name, making.spectrum(before[m.module.name])
        down = result[m.module.down]
        assert down.shape[0] == m.rank <= m.module.rank
        assert making.NAMES[down.dtype] == m.encoding
        # Rounding is relative to the stored factors, not to their product.
        stored = ROUNDING[m.encoding] * size(result, name)
        allowed = making.tail(values, m.rank) + stored + 1e-7 * float(before[name].norm())
        assert float((before[name] - after[name]).norm()) <= allowed


def size(tensors: making.Tensors, name: str) -> float:
    """Return ||up|| ||down|| alpha/rank.

    For balanced factors it is at most sqrt(rank) times the norm of the delta weight.
    """
    up = tensors[f"{name}.lora_up.weight"].double()
    down = tensors[f"{name}.lora_down.weight"].double()
    alpha = float(tensors.get(f"{name}.alpha", torch.tensor(0.0))) or down.shape[0]
    # Numbers below half a step of float16's subnormals become zero.
    lost = 2.0**-25 / ROUNDING["F16"] * (up.numel() ** 0.5 + down.numel() ** 0.5)
    return float((up.norm() + lost) * (down.norm() + lost)) * abs(alpha) / down.shape[0]


def test_an_unchanged_module_is_copied_bit_for_bit() -> None:
    """It keeps its rank and its alpha, so nothing is computed."""
    tensors = making.kohya("lora_unet_a", made("random")) | making.kohya(
        "lora_unet_b", made("flat")
    )
    result = making.compressed(tensors, Parameters(mode="rank", energy=1.0))
    for key, tensor in tensors.items():
        if not key.endswith(".alpha"):
            assert result[key].dtype == torch.float16
            assert torch.equal(result[key], tensor)


def test_alpha_0_means_the_rank() -> None:
    """As in kohya's files: the output's alpha is the rank, and the delta weight is the same."""
    tensors = making.kohya("lora_unet_a", made("random", alpha=0.0))
    result = making.compressed(tensors, Parameters(mode="rank", energy=1.0))
    assert float(result["lora_unet_a.alpha"]) == 8.0
    assert torch.equal(
        making.meaning(result)["lora_unet_a"], making.meaning(tensors)["lora_unet_a"]
    )


@pytest.mark.parametrize("energy", [0.99, 1.0])
def test_different_alphas_become_the_most_common_one(energy: float) -> None:
    """diffusers misreads alphas that differ between modules, so `up` is scaled instead."""
    tensors: making.Tensors = {}
    for at, alpha in enumerate([4.0, 4.0, 16.0, -1.0]):
        tensors |= making.kohya(f"lora_unet_{at}", made(alpha=alpha, seed=at))
    result = making.compressed(tensors, Parameters(mode="rank", energy=energy))
    assert {float(result[f"lora_unet_{at}.alpha"]) for at in range(4)} == {4.0}
    before, after = making.meaning(tensors), making.meaning(result)
    for name, delta in before.items():
        assert making.distance(delta, after[name]) <= (1 - energy) ** 0.5 + 2e-3


def test_a_negative_alpha_keeps_its_sign() -> None:
    """The delta weight keeps its sign in every mode, also at a smaller rank."""
    tensors = making.kohya("lora_unet_a", made(alpha=-3.0))
    delta = making.meaning(tensors)["lora_unet_a"]
    for mode in ("rank", "int8", "ultra"):
        result = making.compressed(tensors, Parameters(mode=mode))
        assert making.distance(delta, making.meaning(result)["lora_unet_a"]) < 0.12


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_alpha_is_read_in_every_number_format(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """If an integer alpha were ignored, the strength would change with the rank."""
    tensors = making.kohya("lora_unet_a", made(alpha=4.0))
    tensors["lora_unet_a.alpha"] = torch.full(shape, 4.0).to(dtype)
    result = making.compressed(tensors, RANK)
    assert result["lora_unet_a.lora_down.weight"].shape[0] < 8
    distance = making.distance(*(making.meaning(t)["lora_unet_a"] for t in (tensors, result)))
    assert distance < 0.11


def test_peft_files_stay_without_alpha() -> None:
    """Every loader then uses scale 1, so the scale goes into the factors."""
    tensors = making.peft("transformer.x", made())
    result = making.compressed(tensors, RANK)
    assert set(result) == set(tensors)
    assert result["transformer.x.lora_A.weight"].shape[0] < 8
    before, after = making.meaning(tensors), making.meaning(result)
    assert making.distance(before["transformer.x"], after["transformer.x"]) < 0.11


def wide(scale: float = 1.0, *, exact_bfloat16: bool = False) -> making.Tensors:
    up, down = (t.float() for t in making.factors("decaying", 24, 20, 8, 1))
    if exact_bfloat16:
        up, down = up.bfloat16().float(), down.bfloat16().float()
    return making.kohya("lora_unet_a", Made(up * scale, down, 4.0))


@pytest.mark.parametrize(
    ("float32", "tensors", "expected"),
    [
        ("auto", wide(), "F16"),
        ("auto", wide(exact_bfloat16=True), "BF16"),
        ("auto", wide(1e7), "BF16"),  # beyond float16
        ("float16", wide(exact_bfloat16=True), "F16"),
        ("bfloat16", wide(), "BF16"),
        ("keep", wide(), "F32"),
    ],
)
def test_float32_goes_to_16_bits(float32: str, tensors: making.Tensors, expected: str) -> None:
    """auto: bfloat16 if it represents every value or a value is too large for float16."""
    for energy in (0.99, 1.0):
        parameters = Parameters(mode="rank", energy=energy, float32=float32)
        result = making.compressed(tensors, parameters)
        down = result["lora_unet_a.lora_down.weight"]
        assert making.NAMES[down.dtype] == expected
        before, after = (making.meaning(t)["lora_unet_a"] for t in (tensors, result))
        assert making.distance(before, after) <= (1 - energy) ** 0.5 + ROUNDING[expected]


def test_float32_values_that_are_bfloat16_are_copied_exactly() -> None:
    """A float32 file that was trained in bfloat16 loses only the zero digits."""
    tensors = wide(exact_bfloat16=True)
    result = making.compressed(tensors, Parameters(mode="rank", energy=1.0))
    for factor in ("lora_unet_a.lora_up.weight", "lora_unet_a.lora_down.weight"):
        assert result[factor].dtype == torch.bfloat16
        assert torch.equal(result[factor].float(), tensors[factor])


def test_float64_is_no_exact_bfloat16() -> None:
    """A float64 file becomes float16 like a float32 file."""
    up, down = making.factors("decaying", 24, 20, 8, 1)
    result = making.compressed(making.kohya("lora_unet_a", Made(up, down, 4.0)), RANK)
    assert result["lora_unet_a.lora_up.weight"].dtype == torch.float16


@pytest.mark.parametrize("energy", [0.99, 1.0])
def test_small_float32_weights_do_not_vanish_in_float16(energy: float) -> None:
    """A lightly trained `up` of 1e-7 is below what float16 resolves; `down` has room to spare."""
    tensors = wide(1e-6)
    result = making.compressed(tensors, Parameters(mode="rank", energy=energy))
    before, after = (making.meaning(t)["lora_unet_a"] for t in (tensors, result))
    assert result["lora_unet_a.lora_up.weight"].dtype == torch.float16
    assert making.distance(before, after) <= (1 - energy) ** 0.5 + 2e-2


def test_factors_of_two_formats_are_reduced_together() -> None:
    """float16 up beside bfloat16 down: nothing is lost in making them one."""
    up, down = making.factors("decaying", 24, 20, 8, 1)
    tensors = making.kohya("lora_unet_a", Made(up.half(), down.bfloat16(), 4.0))
    result = making.compressed(tensors, Parameters(mode="rank", energy=1.0))
    assert len({result[f"lora_unet_a.lora_{f}.weight"].dtype for f in ("up", "down")}) == 1
    before, after = (making.meaning(t)["lora_unet_a"] for t in (tensors, result))
    assert making.distance(before, after) <= 2e-3


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e300])
@pytest.mark.parametrize("where", ["up", "down", "alpha"])
def test_a_module_that_is_not_finite_is_not_read(bad: float, where: str) -> None:
    """NaN, infinity and numbers that are infinite in float32: a program cannot use them."""
    one = Made(torch.ones(3, 2).double(), torch.ones(2, 3).double(), 1.0)
    layout, _ = making.read(making.kohya("lora_unet_a", one))
    if where != "alpha":
        getattr(one, where)[1, 1] = bad
    alpha = bad if where == "alpha" else 1.0
    assert read_module(layout.modules[0], one.up, one.down, alpha) is None


def test_constant_rank_gives_all_modules_one_rank() -> None:
    """It is for FLUX in older diffusers. A module with fewer ranks keeps its rank."""
    tensors = making.small_file()
    up, down = making.factors("random", 12, 12, 2, 0)
    short = Made(up.half(), down.half(), 4.0)
    tensors |= making.kohya("lora_unet_short", short)
    own = {m.module.name: m.rank for m in making.plan_of(tensors, RANK).modules}
    for allocation in ("module", "file"):
        parameters = Parameters(mode="rank", constant_rank=True, allocation=allocation)
        plan = making.plan_of(tensors, parameters)
        ranks = {m.rank for m in plan.modules if m.module.name != "lora_unet_short"}
        assert len(ranks) == 1
        if allocation == "module":
            assert ranks == {max(own.values())}
        kept = sum(m.energy * m.retained for m in plan.modules)
        assert kept >= 0.99 * sum(m.energy for m in plan.modules)


@pytest.mark.parametrize("allocation", ["module", "file", "balanced"])
@pytest.mark.parametrize("constant", [False, True])
def test_max_rank_is_never_exceeded(allocation: str, constant: bool) -> None:  # noqa: FBT001
    """That holds with every allocation, with and without a constant rank."""
    parameters = Parameters(max_rank=2, allocation=allocation, constant_rank=constant, energy=0.999)
    plan = making.plan_of(making.small_file(), parameters)
    assert max(m.rank for m in plan.modules) == 2


def test_mode_int8_keeps_every_rank() -> None:
    """It only quantizes: shapes stay, dtypes change."""
    tensors = making.small_file()
    result = making.compressed(tensors, Parameters(mode="int8"))
    for key, tensor in tensors.items():
        assert result[key].shape == tensor.shape
        expected = torch.float32 if key.endswith(".alpha") else torch.int8
        assert result[key].dtype == expected


@pytest.mark.parametrize("size", [1.0, 1e-32])
def test_int8_modules_of_full_and_of_smaller_rank_go_together(size: float) -> None:
    """Each becomes what it becomes alone, also where its numbers are too small for the kernels."""
    tensors: making.Tensors = {}
    for at in range(4):
        up, down = making.factors("decaying", 96, 80, 8, at)
        made_ = Made((up * size).float(), down.float(), None)
        tensors |= making.peft(f"transformer.block.{at}", made_)
    modules = making.plan_of(tensors, Parameters(mode="rank")).modules
    plans = [
        replace(m, rank=k, encoding="I8", alpha=None, same=False)
        for m, k in zip(modules, (8, 5, 8, 3), strict=True)
    ]
    pairs = [making.pair_of(tensors, m.module.up, m.module.down) for m in plans]
    stored = Factors(*map(torch.stack, zip(*pairs, strict=True)))
    for m, pair, found in zip(
        plans, pairs, compress.reduce_all(plans, stored, [None] * 4), strict=True
    ):
        alone = compress.reduce(m, *pair)
        assert found.plan == m
        assert found.squared_error == pytest.approx(alone.squared_error, rel=1e-6)
        for key in (m.module.up, m.module.down):
            assert torch.equal(found.tensors[key], alone.tensors[key])
            assert found.tensors[key].any()


def test_a_target_that_cannot_load_int8_keeps_the_file_in_floats() -> None:
    """The plan names the target."""
    tensors = making.small_file()
    plan = making.plan_of(tensors, Parameters(targets=("comfyui", "diffusers")))
    assert plan.forced_by == ("diffusers",)
    assert {m.encoding for m in plan.modules} == {"F16"}
    assert making.plan_of(tensors, RANK).forced_by == ()


def test_tensors_are_ordered_by_element_size_then_name() -> None:
    """float32 alphas come first, then 16 bits, then int8: so each tensor is aligned."""
    plan = making.plan_of(making.small_file(), Parameters())
    dtypes = [spec.dtype for _, spec in plan.tensors]
    assert dtypes == sorted(dtypes, key=["F32", "F16", "I8"].index)
    names = [key for key, spec in plan.tensors if spec.dtype == "I8"]
    assert names == sorted(names)


def test_other_tensors_are_untouched_and_in_the_plan() -> None:
    """Biases, norms and DoRA magnitudes are part of the output without a change."""
    tensors = making.small_file() | {
        "lora_unet_a.dora_scale": torch.ones(40, 1),
        "lora_unet_n.w_norm": torch.ones(7),
    }
    plan = making.plan_of(tensors, Parameters())
    planned = dict(plan.tensors)
    for key in ("lora_unet_a.dora_scale", "lora_unet_n.w_norm"):
        assert planned[key] == making.specs_of(tensors)[key]
        assert key in plan.layout.untouched
