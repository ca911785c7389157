"""Every cell of READS that says `test`: the program itself loads the file, or refuses it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lensd.lora.portability import ENCODINGS, READS, Encoding, cell
from lensd.lora.portability.reads import applies_added_alpha
from tests.engine.loaders import EXACT
from tests.loading import invokeai, pipelines, transformers
from tests.loading.cases import CASES, KOHYA, Case, File, make
from tests.support.suites import FULL

Deltas = list[Tensor]
WRONG = 1e4  # times too strong, as the cells say
MANY = [pytest.param(c, id=f"{c.dialect} {c.family}") for c in CASES]
PRECISIONS = [torch.float32, torch.float16, torch.bfloat16][: 3 if FULL else 1]


def in_diffusers(case: Case, tensors: dict[str, Tensor], dtype: torch.dtype) -> Deltas:
    """What it applies, in the order of the model's modules."""
    build = pipelines.PIPELINES.get(case.family)
    pipeline = build() if build else transformers.pipeline(case.family)
    return list(pipelines.applied_by(pipeline, tensors, dtype).values())


def in_invokeai(case: Case, tensors: dict[str, Tensor], dtype: torch.dtype) -> Deltas:
    return [d.double() for d in invokeai.load(case.family, tensors, dtype).deltas()]


def in_sidecar(case: Case, tensors: dict[str, Tensor], dtype: torch.dtype) -> Deltas:
    """up(down(x)) for the same x in each layer."""
    return [y.double() for y in invokeai.load(case.family, tensors, dtype).outputs(dtype)]


LOADERS: dict[str, Callable[[Case, dict[str, Tensor], torch.dtype], Deltas]] = {
    "diffusers": in_diffusers,
    "invokeai": in_invokeai,
    "invokeai-sidecar": in_sidecar,
}
INVOKEAI = pytest.mark.skipif(not invokeai.FOLDER.is_dir(), reason=invokeai.MISSING)
PROGRAMS = [pytest.param(p, marks=[INVOKEAI] if p.startswith("invokeai") else []) for p in LOADERS]
# Programs that apply an alpha which the original did not have.
APPLYING = [
    pytest.param(c, p.values[0], marks=p.marks, id=f"{c.dialect} {c.family} {p.values[0]}")
    for c in CASES
    for p in PROGRAMS
    if c.suffixes is not KOHYA and applies_added_alpha(c.dialect, str(p.values[0]))
]


def relative(found: Deltas, meant: Deltas) -> float:
    """||found - meant|| / ||meant|| over all modules; infinity if a value is not finite."""
    off = sum(float((f - m).square().sum()) for f, m in zip(found, meant, strict=True))
    ratio = (off / sum(float(m.square().sum()) for m in meant)) ** 0.5
    return ratio if math.isfinite(ratio) else math.inf


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("case", MANY)
def test_a_program_does_what_its_cell_says(
    case: Case, program: str, encoding: Encoding, dtype: torch.dtype
) -> None:
    """Exact within the precision's rounding; or the message, or the wrong result, of the cell."""
    said, load = cell(case.dialect, program, encoding), LOADERS[program]
    assert said.source is not None
    assert said.source.how == "test"
    file = make(case, encoding)
    if said.kind == "reads nothing":
        assert reads_nothing(case, load, make(case, None), dtype)
    elif said.kind == "refuses":
        assert load(case, make(case, None).tensors, dtype)
        with pytest.raises((RuntimeError, ValueError, KeyError), match=said.detail):
            load(case, file.tensors, dtype)
    else:
        compare(case, load, file, dtype, wrong=said.kind == "wrong", program=program)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize(("case", "program"), APPLYING)
def test_a_program_applies_an_added_alpha_to_float8(
    case: Case, program: str, dtype: torch.dtype
) -> None:
    """Where the table says so: one alpha for modules of several ranks."""
    file, alpha = make(case, "float8"), 3.0
    down, up, end = case.suffixes
    tensors, in_floats = dict(file.tensors), dict(file.in_floats)
    for name in case.names(case.family):
        tensors[name + end] = torch.tensor(alpha)
        in_floats[name + up] = in_floats[name + up] * (alpha / tensors[name + down].shape[0])
    load = LOADERS[program]
    meant = load(case, in_floats, torch.float32)
    assert relative(load(case, tensors, dtype), meant) <= EXACT[dtype]


def reads_nothing(case: Case, load: Any, original: File, dtype: torch.dtype) -> bool:
    """Whether it finds no module or no weights in the original, or refuses it."""
    try:
        return all(delta.is_meta for delta in load(case, original.tensors, dtype))
    except (RuntimeError, ValueError, KeyError, AssertionError):
        return True


def compare(
    case: Case, load: Any, file: File, dtype: torch.dtype, *, wrong: bool, program: str
) -> None:
    meant = load(case, file.in_floats, torch.float32)
    assert meant
    if program != "invokeai-sidecar":  # nothing of the file is missing
        energy = sum(float(m.square().sum()) for m in meant)
        assert energy == pytest.approx(file.energy, rel=1e-4)
    error = relative(load(case, file.tensors, dtype), meant)
    if not wrong:
        assert error <= EXACT[dtype]
    elif program != "invokeai-sidecar" or dtype == torch.float16:
        assert error > WRONG


def test_the_cells_that_say_so_are_all_tested_here() -> None:
    """And the dialects of these files are those of the table."""
    tested = {(c.dialect, p) for c in CASES for p in LOADERS}
    said = {
        (dialect, program)
        for dialect, row in READS.items()
        for program, cells in row.items()
        if any(c.source and c.source.how == "test" for c in cells.values())
    }
    assert {s for s in said if s[0] != "kohya: their text encoders"} == tested
