"""Each kind of adapter is reduced, or copied bit for bit with the reason in the log."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import lensd
from lensd.engine import task
from lensd.errors import Skipped
from tests.engine import asking
from tests.engine.asking import MODES, Numbers
from tests.engine.loaders import LOADERS, a1111_dora
from tests.lora import key_lists, making
from tests.lora.making import Made, Tensors

RANDOM = torch.Generator().manual_seed(5)


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Each test has the same numbers, whatever ran before it."""
    RANDOM.manual_seed(5)


def normal(*shape: int) -> Tensor:
    return (torch.randn(shape, generator=RANDOM) * 0.1).half()


def made(kernel: tuple[int, ...] = (), out: int = 120, width: int = 48, rank: int = 8) -> Made:
    """Return a module with decreasing singular values; with a kernel it is a convolution."""
    size = width * int(torch.tensor(kernel).prod()) if kernel else width
    up, down = making.factors("decaying", out, size, rank, len(kernel))
    one = [1] * len(kernel)
    return Made(up.half().reshape(out, rank, *one), down.half().reshape(rank, width, *kernel), 4.0)


def run(tmp_path: Path, tensors: Tensors, **options: object) -> tuple[Numbers, Tensors]:
    source, out = tmp_path / "a.safetensors", tmp_path / "out"
    save_file(tensors, source)
    return asking.compress(source, out, min_saving=-1.0, **options), load_file(out)


def assert_same(before: Tensors, after: Tensors) -> None:
    """Assert that `after` has every tensor of `before`, bit for bit."""
    for key, tensor in before.items():
        assert (after[key].dtype, after[key].shape) == (tensor.dtype, tensor.shape), key
        assert asking.bits(after[key]) == asking.bits(tensor), key


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kernel", [(), (1, 1), (3, 3), (3,), (3, 3, 3)], ids=str)
def test_linear_layers_and_convolutions_are_reduced(
    tmp_path: Path, kernel: tuple[int, ...], mode: str
) -> None:
    """The kernel, in one to three dimensions, stays in `down`; that of `up` has size 1."""
    tensors = making.kohya("lora_unet_x", made(kernel))
    numbers, after = run(tmp_path, tensors, mode=mode)
    down, up = after["lora_unet_x.lora_down.weight"], after["lora_unet_x.lora_up.weight"]
    rank = down.shape[0]
    assert down.shape == (rank, 48, *kernel)
    assert up.shape == (120, rank, *(1 for _ in kernel))
    assert rank == 8 if mode == "int8" else rank < 8
    before, found = (making.meaning(t)["lora_unet_x"] for t in (tensors, after))
    distance = making.distance(before, found)
    assert distance == pytest.approx(numbers["delta_error"], rel=1e-3, abs=1e-6)
    assert distance < 0.11
    assert "untouched_because" in numbers
    assert not numbers["untouched_because"]


def tucker() -> Tensors:
    return {
        "lora_unet_t.lora_down.weight": normal(4, 8, 1, 1),
        "lora_unet_t.lora_up.weight": normal(8, 4, 1, 1),
        "lora_unet_t.lora_mid.weight": normal(4, 4, 3, 3),
        "lora_unet_t.alpha": torch.tensor(3.0).half(),
    }


LOHA: Tensors = {
    "lora_unet_h.hada_w1_a": normal(8, 4),
    "lora_unet_h.hada_w1_b": normal(4, 8),
    "lora_unet_h.hada_w2_a": normal(8, 4),
    "lora_unet_h.hada_w2_b": normal(4, 8),
    "lora_unet_h.alpha": torch.tensor(2.0),
}
LOKR: Tensors = {
    "lora_unet_k.lokr_w1": normal(4, 4),
    "lora_unet_k.lokr_w2_a": normal(8, 2),
    "lora_unet_k.lokr_w2_b": normal(2, 8),
    "lora_unet_k.alpha": torch.tensor(2.0),
}
GLORA: Tensors = {f"lora_unet_g.{part}.weight": normal(4, 4) for part in ("a1", "a2", "b1", "b2")}
OFT: Tensors = {"lora_unet_o.oft_blocks": normal(4, 8, 8), "lora_unet_o.alpha": torch.tensor(1.0)}
BOFT: Tensors = {"lora_unet_b.boft_R": normal(4, 8, 8), "lora_unet_b.boft_s": normal(8, 1)}
OTHERS = {"LoHa": LOHA, "LoKr": LOKR, "GLoRA": GLORA, "OFT": OFT, "BOFT": BOFT, "Tucker": tucker()}

ALPHA_ZERO = making.kohya("lora_unet_z", made()._replace(alpha=0.0))
ALPHA_OF_TWO = making.kohya("lora_unet_s", made()) | {"lora_unet_s.alpha": torch.ones(2)}
INTEGERS: Tensors = {
    "lora_unet_i.lora_down.weight": torch.ones(4, 8, dtype=torch.int8),
    "lora_unet_i.lora_up.weight": torch.ones(8, 4, dtype=torch.int8),
}
UNTOUCHED: dict[str, tuple[Tensors, dict[str, int]]] = {
    "tucker": (tucker(), {"tucker": 4}),
    "loha": (LOHA, {"other_adapter": 5}),
    "lokr": (LOKR, {"other_adapter": 4}),
    "glora": (GLORA, {"other_adapter": 4}),
    "oft": (OFT, {"other_adapter": 2}),
    "boft": (BOFT, {"other_adapter": 2}),
    "biases": (
        {"lora_unet_x.diff_b": normal(120), "lora_unet_y.lora_B.bias": normal(3)},
        {"bias": 2},
    ),
    "norms": ({"lora_unet_n.w_norm": normal(9), "lora_unet_n.b_norm": normal(9)}, {"norm": 2}),
    "differences": (
        {
            "lora_unet_n.diff": normal(9, 9),
            "lora_unet_n.set_weight": normal(9),
            "lora_unet_n.reshape_weight": torch.tensor([9, 9]),
        },
        {"diff": 3},
    ),
    "magnitudes": ({"lora_unet_n.dora_scale": normal(9, 1)}, {"dora": 1}),
    "orphans": (
        {
            "lora_unet_n.alpha": torch.tensor(1.0),
            "lora_unet_d.lora_down.weight": normal(4, 8),
            "lora_unet_u.lora_up.weight": normal(8, 4),
        },
        {"orphan": 3},
    ),
    "integers": (INTEGERS, {"dtype": 2}),
    "an alpha of two numbers": (ALPHA_OF_TWO, {"shape": 3}),
    "an alpha of 0": (ALPHA_ZERO, {"alpha_zero": 3}),
    "a second alpha": (
        making.kohya("lora_unet_s", made()) | {"lora_unet_s.lora_alpha": torch.tensor(2.0)},
        {"shape": 3, "other": 1},
    ),
    "embeddings": ({"bundle_emb.e.string_to_param.*": normal(2, 768)}, {"other": 1}),
}


@pytest.mark.parametrize("kind", UNTOUCHED)
def test_other_tensors_are_copied_and_counted_by_reason(tmp_path: Path, kind: str) -> None:
    """Beside a LoRA they are copied bit for bit in every mode."""
    others, because = UNTOUCHED[kind]
    for mode in MODES:
        lora = making.kohya("lora_unet_x", made())
        numbers, after = run(tmp_path, lora | others, mode=mode)
        assert_same(others, after)
        assert set(after) == set(lora) | set(others)
        assert numbers["untouched_because"] == because
        assert numbers["encodings"]["untouched"] == len(others)
        before, found = (making.meaning({k: t[k] for k in lora}) for t in (lora, after))
        assert making.distance(before["lora_unet_x"], found["lora_unet_x"]) < 0.11


@pytest.mark.parametrize("kind", OTHERS)
def test_a_file_of_another_adapter_alone_is_skipped(tmp_path: Path, kind: str) -> None:
    """The reason is unsupported_adapter, and the message names the kind."""
    with pytest.raises(Skipped, match=f"{kind} adapter") as caught:
        run(tmp_path, OTHERS[kind])
    assert caught.value.reason == "unsupported_adapter"


ONE_TEXT_ENCODER = making.kohya("lora_te_text_model_encoder_layers_0_mlp_fc1", made())


@pytest.mark.parametrize("beside", [{}, ONE_TEXT_ENCODER], ids=["alone", "with a text encoder"])
def test_a_file_whose_denoiser_has_alpha_0_is_left_alone(tmp_path: Path, beside: Tensors) -> None:
    """ComfyUI, A1111 and InvokeAI apply nothing, kohya everything, so lensd decides nothing."""
    up, down = ALPHA_ZERO["lora_unet_z.lora_up.weight"], ALPHA_ZERO["lora_unet_z.lora_down.weight"]
    for program in ("comfyui", "a1111", "invokeai"):
        assert not LOADERS[program].merge(up, down, 0.0, torch.float32).any()
    assert LOADERS["kohya"].merge(up, down, 0.0, torch.float32).any()
    for mode in MODES:
        with pytest.raises(Skipped, match=r"alpha 0.*right alpha") as caught:
            run(tmp_path, ALPHA_ZERO | beside, mode=mode)
        assert caught.value.reason == "alpha_zero"
    with pytest.raises(Skipped) as caught:
        task.analyze(asking.analysis(tmp_path / "a.safetensors"))
    assert caught.value.reason == "alpha_zero"


def test_text_encoders_with_alpha_0_stay_beside_a_denoiser(tmp_path: Path) -> None:
    """The denoiser is reduced, and the others are copied."""
    zero = {k: t * (0 if k.endswith(".alpha") else 1) for k, t in ONE_TEXT_ENCODER.items()}
    unet = making.kohya("lora_unet_x", made())
    numbers, after = run(tmp_path, unet | zero)
    assert_same(zero, after)
    assert (numbers["modules"], numbers["untouched_because"]) == (1, {"alpha_zero": 3})
    alone, _ = run(tmp_path, unet)
    assert numbers["delta_error"] == alone["delta_error"]  # programs read the others differently


SINGLES = {
    "LoHa": {
        f"lora_unet_h.hada_w{at}_{side}": torch.randn(shape, generator=RANDOM) * 0.1
        for at in (1, 2)
        for side, shape in (("a", (320, 16)), ("b", (16, 320)))
    }
    | {"lora_unet_h.alpha": torch.tensor(2.0)},
    "LoKr": {
        "lora_unet_k.lokr_w1": torch.randn(16, 16, generator=RANDOM),
        "lora_unet_k.lokr_w2_a": torch.randn(64, 16, generator=RANDOM),
        "lora_unet_k.lokr_w2_b": torch.randn(16, 64, generator=RANDOM) * 0.01,
        "lora_unet_k.alpha": torch.tensor(2.0),
    },
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["LoHa", "LoKr"])
def test_a_file_of_loha_or_lokr_becomes_16_bits(tmp_path: Path, kind: str, mode: str) -> None:
    """The log gives its error, ranks and family as for a LoRA; alpha stays bit for bit."""
    tensors = SINGLES[kind]
    numbers, after = run(tmp_path, tensors, mode=mode)
    assert {t.dtype for k, t in after.items() if not k.endswith(".alpha")} == {torch.float16}
    assert_same({k: t for k, t in tensors.items() if k.endswith(".alpha")}, after)
    assert (numbers["modules"], numbers["naming"]) == (1, "lycoris")
    assert (numbers["dtype_in"], numbers["dtype_out"]) == ("F32", "F16")
    assert numbers["encodings"] == {"int8": 0, "float8": 0, "float": 1, "untouched": 0}
    assert numbers["energy_retained"] == {"min": 1.0, "overall": 1.0}
    assert "spectrum" not in numbers
    old, new = (DELTAS[kind](t) for t in (tensors, after))
    assert numbers["delta_error"] == pytest.approx(making.distance(old, new), rel=1e-4, abs=1e-12)
    assert numbers["delta_error"] < 1e-3


def test_a_lora_with_alpha_0_beside_a_loha_is_copied(tmp_path: Path) -> None:
    """The LoHa is of the denoiser, so the file has an effect in every program."""
    numbers, after = run(tmp_path, ALPHA_ZERO | SINGLES["LoHa"])
    assert_same(ALPHA_ZERO, after)
    assert (numbers["modules"], numbers["dtype_out"]) == (1, "F16")
    assert numbers["untouched_because"] == {"alpha_zero": 3}


@pytest.mark.parametrize("energy", [0.9, 0.99, 0.999, 0.99999])
@pytest.mark.parametrize("allocation", ["module", "file"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_strict_energy_holds_for_loha_and_tucker(
    tmp_path: Path, energy: float, allocation: str, dtype: torch.dtype
) -> None:
    """A rank that truncation alone allows may be too low with the rounding."""
    tensors = making.kohya("lora_unet_x", made()) | weak_tucker() | SINGLES["LoHa"]
    tensors = {k: t.to(dtype) for k, t in tensors.items()}
    numbers, after = run(
        tmp_path, tensors, energy=energy, allocation=allocation, strict_energy=True
    )
    error = numbers["delta_error_max" if allocation == "module" else "delta_error"]
    assert error <= (1 - energy) ** 0.5
    for delta in (tucker_delta, loha_delta):
        if allocation == "module":
            assert making.distance(delta(tensors), delta(after)) <= (1 - energy) ** 0.5


def loha_delta(t: Tensors) -> Tensor:
    w1a, w1b, w2a, w2b = (t[f"lora_unet_h.hada_w{n}_{s}"].double() for n in "12" for s in "ab")
    return (w1a @ w1b) * (w2a @ w2b)


def lokr_delta(t: Tensors) -> Tensor:
    w1, w2a, w2b = (t[f"lora_unet_k.lokr_{part}"].double() for part in ("w1", "w2_a", "w2_b"))
    return torch.kron(w1, w2a @ w2b)


DELTAS = {"LoHa": loha_delta, "LoKr": lokr_delta}


def weak_tucker() -> Tensors:
    """Return a module whose core has decreasing elements."""
    sizes = torch.logspace(0, -4, 8)
    return {
        "lora_unet_t.lora_down.weight": normal(8, 24, 1, 1),
        "lora_unet_t.lora_up.weight": normal(40, 8, 1, 1),
        "lora_unet_t.lora_mid.weight": (
            normal(8, 8, 3, 3) * sizes[:, None, None, None] * sizes[None, :, None, None]
        ).half(),
        "lora_unet_t.alpha": torch.tensor(3.0).half(),
    }


def tucker_delta(t: Tensors) -> Tensor:
    up, down, mid = (
        t[f"lora_unet_t.lora_{part}.weight"].double() for part in ("up", "down", "mid")
    )
    scale = float(t["lora_unet_t.alpha"]) / len(down)
    return scale * torch.einsum("nmkl,in,mj->ijkl", mid, up[..., 0, 0], down[..., 0, 0])


@pytest.mark.parametrize("beside_a_lora", [False, True])
def test_tucker_is_reduced_beside_a_lora_and_alone(
    tmp_path: Path,
    beside_a_lora: bool,  # noqa: FBT001
) -> None:
    """All errors of the log include it, and expand and load_file keep it."""
    lora = making.kohya("lora_unet_x", made()) if beside_a_lora else {}
    tensors = lora | weak_tucker()
    numbers, after = run(tmp_path, tensors, mode="ultra")
    assert after["lora_unet_t.lora_mid.weight"].shape[0] < 8
    assert_same({"lora_unet_t.alpha": tensors["lora_unet_t.alpha"]}, after)
    assert numbers["modules"] == 2 if beside_a_lora else 1
    assert not numbers["untouched_because"]
    old, new = (tucker_delta(t) for t in (tensors, after))
    parts = [(float((old - new).square().sum()), float(old.square().sum()))]
    if beside_a_lora:
        before, found = (
            making.meaning({k: v for k, v in t.items() if "_x." in k})["lora_unet_x"]
            for t in (tensors, after)
        )
        parts.append((float((before - found).square().sum()), float(before.square().sum())))
    error, energy = (sum(column) for column in zip(*parts, strict=True))
    assert numbers["delta_error"] == pytest.approx((error / energy) ** 0.5, rel=1e-3)
    assert set(lensd.load_file(tmp_path / "out")) >= set(tensors) if beside_a_lora else True


def test_a_loha_in_32_bits_beside_an_int8_lora_survives_expand(tmp_path: Path) -> None:
    lora = making.kohya("lora_unet_x", made())
    numbers, after = run(tmp_path, lora | SINGLES["LoHa"], mode="ultra")
    assert numbers["encodings"] == {"int8": 1, "float8": 0, "float": 1, "untouched": 0}
    loaded = lensd.load_file(tmp_path / "out")
    assert_same({k: t for k, t in after.items() if "_h." in k}, loaded)


def test_analyze_predicts_the_size_of_a_loha(tmp_path: Path) -> None:
    path, out = tmp_path / "a.safetensors", tmp_path / "out"
    save_file(SINGLES["LoHa"], path)
    predicted = task.analyze(asking.analysis(path)).predicted
    assert asking.compress(path, out, min_saving=-1.0)["bytes_out"] == predicted.ultra


def test_a_mixed_file_is_treated_module_by_module(tmp_path: Path) -> None:
    """The file has linear layers, convolutions, Tucker, LoHa, DoRA, biases and norms."""
    lora = making.kohya("lora_unet_a", made()) | making.kohya("lora_unet_c", made((3, 3)))
    dora = making.kohya("lora_unet_d", made()) | {"lora_unet_d.dora_scale": normal(120, 1)}
    others = tucker() | LOHA | {"lora_unet_a.diff_b": normal(120), "lora_unet_n.w_norm": normal(9)}
    numbers, after = run(tmp_path, lora | dora | others)
    assert_same(others | {"lora_unet_d.dora_scale": dora["lora_unet_d.dora_scale"]}, after)
    assert numbers["encodings"] == {"int8": 2, "float8": 0, "float": 1, "untouched": 12}
    assert numbers["float_because"] == {"dora": 1}
    assert numbers["untouched_because"] == {
        "tucker": 4,
        "other_adapter": 5,
        "bias": 1,
        "norm": 1,
        "dora": 1,
    }
    for name, delta in making.meaning(lora | dora).items():
        assert making.distance(delta, making.meaning(after)[name]) < 0.11


MAGNITUDES = {
    "kohya": ".dora_scale",
    "peft": ".lora_magnitude_vector.weight",
    "older peft": ".lora_magnitude_vector",
}


def dora_weight(weight: Tensor, delta: Tensor, magnitude: Tensor) -> Tensor:
    """Return the weight by the DoRA paper: magnitude * (W + delta) / the norms of its rows."""
    whole = weight + delta
    return magnitude.double().reshape(-1, 1) * whole / whole.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize("mode", ["rank", "ultra"])
def test_of_a_dora_the_low_rank_part_is_reduced_and_the_magnitude_kept(
    tmp_path: Path, magnitude: str, mode: str
) -> None:
    """It is never int8, and neither up @ down nor alpha / rank changes, which A1111 needs."""
    name = "lora_unet_x" if magnitude == "kohya" else "transformer.x"
    pair = made()
    tensors = making.kohya(name, pair) if magnitude == "kohya" else making.peft(name, pair)
    key = name + MAGNITUDES[magnitude]
    tensors[key] = normal(120, 1) + 1
    numbers, after = run(tmp_path, tensors, mode=mode)
    assert_same({key: tensors[key]}, after)
    up, down = (next(t for k, t in after.items() if k.endswith(e)) for e in endings(magnitude))
    assert up.dtype == down.dtype == torch.float16
    rank = down.shape[0]
    assert rank < 8
    assert making.distance(making.product(pair.up, pair.down), making.product(up, down)) < 0.11
    assert numbers["untouched_because"] == {"dora": 1}
    weight = normal(120, 48).double()
    if magnitude == "kohya":
        old, new = (
            a1111_dora(
                weight,
                t[f"{name}.lora_up.weight"],
                t[f"{name}.lora_down.weight"],
                float(t[f"{name}.alpha"]),
                tensors[key],
            )
            for t in (tensors, after)
        )
        assert making.distance(old, new) < 0.11
    before, found = (
        dora_weight(weight, making.meaning(t)[name], tensors[key]) for t in (tensors, after)
    )
    assert making.distance(before, found) < 0.11


def endings(magnitude: str) -> tuple[str, str]:
    if magnitude == "kohya":
        return ".lora_up.weight", ".lora_down.weight"
    return ".lora_B.weight", ".lora_A.weight"


def test_a_dora_keeps_its_rank_if_diffusers_must_read_it(tmp_path: Path) -> None:
    """At another rank its alpha would differ from the others', which diffusers misreads."""
    dora = making.kohya("lora_unet_d", made()) | {"lora_unet_d.dora_scale": normal(120, 1)}
    tensors = making.kohya("lora_unet_a", made()) | dora
    targets = ("comfyui", "diffusers")
    _, after = run(tmp_path, tensors, targets=targets)
    kept = {k: t for k, t in dora.items() if not k.endswith(".alpha")}
    assert_same(kept, after)
    assert after["lora_unet_a.lora_down.weight"].shape[0] < 8
    assert float(after["lora_unet_a.alpha"]) == float(after["lora_unet_d.alpha"]) == 4.0
    # If these modules alone exceed the target size, the search for smaller ranks ends.
    _, after = run(tmp_path, tensors, targets=targets, target_size=100)
    assert_same(kept, after)
    assert after["lora_unet_a.lora_down.weight"].shape[0] == 1


def test_a_scale_beside_the_factors_keeps_their_product(tmp_path: Path) -> None:
    """A1111 and SD.Next use `.scale` as alpha / rank, so the product must not change."""
    pair = made()
    tensors = making.kohya("lora_unet_x", pair) | {"lora_unet_x.scale": torch.tensor(0.7)}
    for mode in ("rank", "ultra"):
        _, after = run(tmp_path, tensors, mode=mode)
        up, down = after["lora_unet_x.lora_up.weight"], after["lora_unet_x.lora_down.weight"]
        assert making.distance(making.product(pair.up, pair.down), making.product(up, down)) < 0.11
        assert up.dtype == torch.float16


@pytest.mark.parametrize("known", key_lists.read(), ids=lambda k: k.title)
def test_real_key_lists_are_reduced_whole(tmp_path: Path, known: key_lists.KeyList) -> None:
    """In every naming each module gets a smaller rank; only alphas for int8 are added as keys."""
    small = known._replace(
        specs={k: s._replace(shape=shrunk(s.shape)) for k, s in known.specs.items()}
    )
    tensors = small.tensors()
    numbers, after = run(tmp_path, tensors, max_rank=5)
    assert (numbers["naming"], numbers["modules"]) == (known.naming, len(known.pairs))
    assert numbers["rank_out"]["max"] <= 5
    in_int8 = {down for down in known.pairs if after[down].dtype == torch.int8}
    assert len(in_int8) == numbers["encodings"]["int8"]
    assert set(tensors) <= set(after)
    extra = set(after) - set(tensors)
    assert all(key.endswith(".alpha") for key in extra)
    assert in_int8 or not extra
    for down in known.pairs.keys() - in_int8:
        up = known.pairs[down]
        name = next((k for k in alphas(tensors) if down.startswith(k[:-5])), None)
        before, found = (
            making.product(t[up], t[down]) * (float(t[name]) / t[down].shape[0] if name else 1)
            for t in (tensors, after)
        )
        assert making.distance(before, found) < 0.12


@pytest.mark.parametrize("float32", ["auto", "float16"])
def test_a_file_of_sam_lora_works_in_its_program(tmp_path: Path, float32: str) -> None:
    """Sam_LoRA makes each tensor a parameter, and torch refuses float16 beside float32."""
    pairs = [made(out=48).up.float() for _ in range(2)], [made(out=48).down.float() for _ in "ab"]
    tensors = {f"w_b_{at:03d}": up for at, up in enumerate(pairs[0])}
    tensors |= {f"w_a_{at:03d}": down for at, down in enumerate(pairs[1])}
    numbers, after = run(tmp_path, tensors, mode="ultra", float32=float32)
    assert (numbers["naming"], numbers["modules"]) == ("samlora", 2)
    assert set(after) == set(tensors)
    x = torch.randn(64, 48, generator=RANDOM)
    for at in range(2):
        old, new = (sam_lora(t[f"w_a_{at:03d}"], t[f"w_b_{at:03d}"], x) for t in (tensors, after))
        assert after[f"w_a_{at:03d}"].shape[0] < 8
        assert making.distance(old, new) < 0.2


def sam_lora(w_a: Tensor, w_b: Tensor, x: Tensor) -> Tensor:
    """LoRA_qkv.forward: new_q = linear_b_q(linear_a_q(x)), after load_lora_parameters."""
    a, b = torch.nn.Linear(48, 8, bias=False), torch.nn.Linear(8, 48, bias=False)
    a.weight, b.weight = torch.nn.Parameter(w_a), torch.nn.Parameter(w_b)
    with torch.no_grad():
        return torch.Tensor(b(a(x)))


def alphas(tensors: Tensors) -> list[str]:
    return [k for k in tensors if k.endswith(".alpha")]


def shrunk(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Limit each dimension to 48, to save time."""
    return tuple(min(side, 48) for side in shape)
